//! What clients and operators see of the program.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::web::{self, Answer};
use crate::{Node, wait};

/// How long the conversion of a test image may take.
const CONVERSION: Duration = Duration::from_secs(300);

/// The outside of a [`Proxy`](crate::Proxy), or of a [`Fleet`](crate::Fleet) behind its balancers: a test of clients takes either.
#[derive(Clone, Debug)]
pub struct Front {
    pub(crate) node: Node,
    pub(crate) at: SocketAddrV4,
    pub(crate) mirror_at: SocketAddrV4,
    pub(crate) replicas: Vec<Replica>,
}

/// One process behind a [`Front`].
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) at: SocketAddrV4,
    pub(crate) mirror_at: SocketAddrV4,
    pub(crate) admin_at: SocketAddrV4,
    pub(crate) store: PathBuf,
    pub(crate) log: PathBuf,
    /// Killed or frozen by the test: it gets no connection and is asked for no metric.
    pub(crate) is_away: Arc<AtomicBool>,
}

impl Replica {
    pub(crate) fn is_here(&self) -> bool {
        !self.is_away.load(Ordering::Relaxed)
    }
}

impl Front {
    /// Returns the address of the main listener.
    pub fn at(&self) -> SocketAddrV4 {
        self.at
    }

    /// Returns the address of the mirror listener.
    pub fn mirror_at(&self) -> SocketAddrV4 {
        self.mirror_at
    }

    /// Returns the number of processes.
    pub fn size(&self) -> usize {
        self.replicas.len()
    }

    /// Returns the folders of stores and spools, one for each process.
    pub fn stores(&self) -> Vec<PathBuf> {
        self.replicas.iter().map(|replica| replica.store.clone()).collect()
    }

    /// Returns what was logged so far, by one process after the other.
    pub fn log(&self) -> String {
        let logs = self.replicas.iter().enumerate().map(|(number, replica)| {
            let text = std::fs::read(&replica.log).unwrap_or_default();
            let heading = if self.size() > 1 { format!("=== replica {number}\n") } else { String::new() };
            heading + &String::from_utf8_lossy(&text)
        });
        logs.collect()
    }

    /// Sends a request to the main listener, in plain HTTP.
    ///
    /// # Errors
    /// No whole answer came.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        web::request(&self.node, self.at, method, path, &headers)
    }

    /// Returns the value of each metric, summed over the processes that are here; the key is the name with its labels, as printed.
    ///
    /// # Errors
    /// An admin listener did not answer.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let mut sums = BTreeMap::new();
        for replica in self.replicas.iter().filter(|replica| replica.is_here()) {
            let text = web::request(&self.node, replica.admin_at, "GET", "/metrics", &[])?.text();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            for (name, value) in lines.filter_map(|line| line.rsplit_once(' ')) {
                if let Ok(value) = value.parse::<f64>() {
                    *sums.entry(name.to_owned()).or_default() += value;
                }
            }
        }
        Ok(sums)
    }

    /// Returns the sum of a metric over all its labels; 0 when it is not there.
    ///
    /// # Errors
    /// An admin listener did not answer.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let is_it = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        Ok(self.metrics()?.iter().filter(|(key, _)| is_it(key)).map(|(_, value)| value).sum())
    }

    /// Has an image converted and returns the digest that its tag shows then.
    ///
    /// Everything is first asked for by digest, because a tag that was once answered with the original keeps that for a while.
    ///
    /// # Errors
    /// The proxy refused, or the tag does not show the estargz view after `convert.wait`.
    pub fn convert(&self, repository: &str, tag: &str, source: &str) -> Result<String> {
        let headers = [("accept", web::MANIFEST_TYPES), ("firstlight-view", "estargz")];
        let manifest = self.request("GET", &format!("/v2/{repository}/manifests/{source}"), &headers)?.json()?;
        for layer in manifest["layers"].as_array().context("no layers")? {
            let digest = layer["digest"].as_str().context("no digest")?;
            let answer = self.request("GET", &format!("/v2/{repository}/blobs/{digest}"), &[])?;
            ensure!(answer.status.is_success(), "{digest}: {} {}", answer.status, answer.text());
        }
        wait::until("conversion", CONVERSION, || {
            Ok((self.metric("firstlight_conversions_running")? == 0.0).then_some(()))
        })?;
        let answer = self.request("GET", &format!("/v2/{repository}/manifests/{tag}"), &headers)?;
        let view = answer.header("firstlight-view").unwrap_or_default();
        ensure!(view == "estargz", "{} in view {view:?}\n{}\n{}", answer.status, answer.text(), self.log());
        let failed: Vec<_> = self
            .metrics()?
            .into_keys()
            .filter(|key| key.starts_with("firstlight_conversions_total") && !key.contains("ready"))
            .collect();
        ensure!(failed.is_empty(), "{failed:?}\n{}", self.log());
        answer.header("docker-content-digest").context("no digest")
    }

    /// Waits until every layer of an image has a twin.
    ///
    /// # Errors
    /// The proxy refused, or not in time; the error carries what it last said.
    pub fn wait_twins(&self, repository: &str, digest: &str) -> Result<()> {
        let call = format!("/v2/{repository}/_firstlight/lazy/{digest}?wait=30");
        let mut said = String::new();
        let ready = wait::until("twins", CONVERSION, || {
            let answer = self.request("GET", &call, &[])?;
            said = answer.text();
            let answer = answer.json()?;
            let layers = answer["layers"].as_array().context("no layers")?;
            Ok(layers.iter().all(|layer| layer["state"] == "ready").then_some(()))
        });
        ready.with_context(|| said)
    }

    /// Returns the digest and the view of a tag as a HEAD tells them.
    ///
    /// # Errors
    /// The proxy refused.
    pub fn tag(&self, repository: &str, tag: &str) -> Result<(String, String)> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.request("HEAD", &path, &[("accept", web::MANIFEST_TYPES)])?;
        let digest = answer.header("docker-content-digest").with_context(|| format!("{path}: {}", answer.status))?;
        Ok((digest, answer.header("firstlight-view").unwrap_or_default()))
    }
}
