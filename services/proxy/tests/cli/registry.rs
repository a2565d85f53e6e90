//! [`Registry`]: a registry in memory that takes pushes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use api::Digest;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{Method, StatusCode};

#[derive(Default)]
struct Content {
    /// By `<name>/blobs/<digest>` and `<name>/manifests/<reference>`: the type and the bytes.
    objects: HashMap<String, (String, Bytes)>,
    uploads: usize,
}

pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    content: Arc<Mutex<Content>>,
    _runtime: tokio::runtime::Runtime,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let content = Arc::new(Mutex::new(Content::default()));
        let routes = axum::Router::new().fallback(answer).with_state(Arc::clone(&content));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Self { address, content, _runtime: runtime }
    }

    /// Takes everything of the layout in `dir`; its index `digest` becomes `tag`.
    pub(crate) fn load(&self, name: &str, tag: &str, dir: &Path, digest: &str) {
        let mut content = self.content.lock().unwrap();
        for entry in std::fs::read_dir(dir.join("blobs/sha256")).unwrap() {
            let bytes = Bytes::from(std::fs::read(entry.unwrap().path()).unwrap());
            let found = Digest::of(&bytes).to_string();
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            if let Some(media_type) = json["mediaType"].as_str() {
                let object = (media_type.to_owned(), bytes.clone());
                content.objects.insert(format!("{name}/manifests/{found}"), object.clone());
                if found == digest {
                    content.objects.insert(format!("{name}/manifests/{tag}"), object);
                }
            }
            content.objects.insert(format!("{name}/blobs/{found}"), ("application/octet-stream".into(), bytes));
        }
    }

    pub(crate) fn tag(&self, name: &str, tag: &str) -> String {
        Digest::of(&self.content.lock().unwrap().objects[&format!("{name}/manifests/{tag}")].1).to_string()
    }

    /// Returns how many blobs were sent.
    pub(crate) fn uploads(&self) -> usize {
        self.content.lock().unwrap().uploads
    }
}

async fn answer(State(content): State<Arc<Mutex<Content>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let path = parts.uri.path().strip_prefix("/v2/").unwrap_or_default().to_owned();
    let query = parts.uri.query().unwrap_or_default().replace("%3A", ":");
    let mut content = content.lock().unwrap();
    let reply = |status: StatusCode| Response::builder().status(status);
    if parts.method == Method::POST && path.ends_with("/blobs/uploads/") {
        let location = format!("/v2/{path}one?state=x");
        return reply(StatusCode::ACCEPTED).header("location", location).body(Body::empty()).unwrap();
    }
    if parts.method == Method::PUT {
        let digest = Digest::of(&bytes).to_string();
        let key = match path.split_once("/blobs/uploads/") {
            Some((name, _)) => {
                assert_eq!(query, format!("state=x&digest={digest}"));
                content.uploads += 1;
                format!("{name}/blobs/{digest}")
            }
            None => path,
        };
        let media_type = parts.headers["content-type"].to_str().unwrap().to_owned();
        if let Some((name, _)) = key.split_once("/manifests/") {
            // As strict as a real one: what a manifest names must be there.
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let blobs = json["layers"].as_array().into_iter().flatten().chain(json.get("config"));
            let named = blobs.map(|blob| ("blobs", blob));
            let named = named.chain(json["manifests"].as_array().into_iter().flatten().map(|m| ("manifests", m)));
            for (kind, entry) in named {
                let key = format!("{name}/{kind}/{}", entry["digest"].as_str().unwrap());
                assert!(content.objects.contains_key(&key), "{key} is missing");
            }
            content.objects.insert(format!("{name}/manifests/{digest}"), (media_type.clone(), bytes.clone()));
        }
        content.objects.insert(key, (media_type, bytes));
        return reply(StatusCode::CREATED).header("docker-content-digest", digest).body(Body::empty()).unwrap();
    }
    let Some((media_type, bytes)) = content.objects.get(&path) else {
        return reply(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    };
    let answer = reply(StatusCode::OK).header("content-type", media_type).header("content-length", bytes.len());
    let answer = answer.header("docker-content-digest", Digest::of(bytes).to_string());
    answer.body(if parts.method == Method::HEAD { Body::empty() } else { Body::from(bytes.clone()) }).unwrap()
}
