//! What the chart configures is accepted by the program, in the environment and with the files that each pod gets.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use e2e::Scratch;
use serde_json::{Value, json};

use crate::chart::{Chart, container, list, text};
use crate::secrets::Secrets;
use crate::sets;
use crate::tools::config_check;

/// The address that a pod gets, in a cluster of either kind.
const POD_IPS: (&str, &str) = ("10.9.8.7", "fd00::7");

/// A pod's one container, with its volumes as folders of this machine.
struct Pod<'a> {
    container: &'a Value,
    volumes: &'a [Value],
    chart: &'a Chart,
    secrets: &'a Secrets,
    scratch: Scratch,
}

impl<'a> Pod<'a> {
    fn new(chart: &'a Chart, template: &'a Value, secrets: &'a Secrets) -> Result<Self> {
        let volumes = template["spec"]["volumes"].as_array().map_or(&[][..], Vec::as_slice);
        let pod = Self { container: container(template), volumes, chart, secrets, scratch: Scratch::new()? };
        pod.fill().map(|()| pod)
    }

    /// Returns the configuration that is in force in it, or what the program says against it.
    fn configuration(&self) -> Result<Value> {
        let arguments: Vec<_> = list(&self.container["args"]).iter().map(text).map(|text| self.local(&text)).collect();
        let options: Vec<_> = arguments.into_iter().filter(|argument| argument.starts_with("--")).collect();
        config_check(&options, &self.environment()?)
    }

    fn environment(&self) -> Result<Vec<(String, String)>> {
        let mut env: Vec<(String, String)> = Vec::new();
        for variable in self.container["env"].as_array().map_or(&[][..], Vec::as_slice) {
            let name = text(&variable["name"]);
            let from = &variable["valueFrom"];
            let value = if let Some(secret) = from.get("secretKeyRef") {
                self.secrets.get(&text(&secret["name"]), &text(&secret["key"]))?.to_owned()
            } else if from["fieldRef"]["fieldPath"] == "status.podIP" {
                self.address().to_owned()
            } else {
                // As the kubelet does with what was named before.
                env.iter()
                    .fold(text(&variable["value"]), |value, (name, known)| value.replace(&format!("$({name})"), known))
            };
            env.push((name, self.local(&value)));
        }
        Ok(env)
    }

    fn address(&self) -> &'static str {
        let wants_ipv6 = self.chart.kind("ConfigMap").any(|map| text(&map["data"]["serve.toml"]).contains("[::]"));
        if wants_ipv6 { POD_IPS.1 } else { POD_IPS.0 }
    }

    /// Returns a text with the paths below mounted volumes changed to where these are here.
    fn local(&self, text_of_pod: &str) -> String {
        let mounts = self.container["volumeMounts"].as_array().map_or(&[][..], Vec::as_slice);
        mounts.iter().fold(text_of_pod.to_owned(), |text_of_pod, mount| {
            let path = text(&mount["mountPath"]);
            text_of_pod.replace(&path, &self.folder(&text(&mount["name"])).display().to_string())
        })
    }

    fn folder(&self, volume: &str) -> PathBuf {
        self.scratch.join(volume)
    }

    /// Writes the files of all volumes.
    fn fill(&self) -> Result<()> {
        for volume in self.volumes {
            let name = text(&volume["name"]);
            self.scratch.folder(&name)?;
            for source in volume["projected"]["sources"].as_array().map_or(std::slice::from_ref(volume), Vec::as_slice)
            {
                self.fill_from(&name, source)?;
            }
        }
        Ok(())
    }

    fn fill_from(&self, volume: &str, source: &Value) -> Result<()> {
        let (kind, name) = match (source.get("secret"), source.get("configMap")) {
            (Some(secret), _) => ("Secret", secret.get("secretName").unwrap_or(&secret["name"])),
            (_, Some(map)) => ("ConfigMap", &map["name"]),
            _ => return Ok(()),
        };
        let name = text(name);
        let items = source["secret"]["items"].as_array().or(source["configMap"]["items"].as_array());
        for item in items.map_or(&[][..], Vec::as_slice) {
            let key = text(&item["key"]);
            let content = match kind {
                "Secret" => self.secrets.get(&name, &key)?.to_owned(),
                _ => self.local(&text(&self.chart.object(kind, &name)["data"][&key])),
            };
            self.scratch.write(&format!("{volume}/{}", text(&item["path"])), &content)?;
        }
        Ok(())
    }
}

/// Returns the configuration in force in the pods of a component.
fn configuration(chart: &Chart, component: &str, secrets: &Secrets) -> Result<Value> {
    for (_, template) in chart.templates() {
        if template["metadata"]["labels"]["app.kubernetes.io/component"] == *component {
            let pod = Pod::new(chart, template, secrets)?;
            let configuration = pod.configuration()?;
            // Paths as the pod sees them.
            let seen = configuration.to_string().replace(&pod.scratch.path().display().to_string(), "");
            return serde_json::from_str(&seen).context("configuration");
        }
    }
    bail!("no pods of {component}")
}

#[test]
fn the_program_accepts_the_configuration_of_every_pod() {
    let secrets = Secrets::new().unwrap();
    for (name, values) in sets::ALL {
        let chart = Chart::render(values).unwrap();
        for (_, template) in chart.templates() {
            let component = text(&template["metadata"]["labels"]["app.kubernetes.io/component"]);
            configuration(&chart, &component, &secrets)
                .unwrap_or_else(|error| panic!("{name}, {component}: {error:#}"));
        }
    }
}

/// The embedded default listens where the probes and the Service expect it, and keeps its data on its volume.
#[test]
fn the_embedded_default_is_as_its_objects_say() {
    let secrets = Secrets::new().unwrap();
    let chart = Chart::render(sets::EMBEDDED).unwrap();
    let config = configuration(&chart, "serve", &secrets).unwrap();
    assert_eq!(config["storage"]["path"], "/data");
    assert_eq!(config["storage"]["backend"], "fs");
    assert_eq!(config["catalog"]["url"], "sqlite:/data/catalog.db");
    let (_, template) = chart.templates().next().unwrap();
    for (key, port) in [("listen", "registry"), ("admin_listen", "admin")] {
        assert_eq!(config["server"][key], format!("0.0.0.0:{}", container_port(template, port)));
    }
    assert!(
        list(&chart.object("StatefulSet", "fl-firstlight")["spec"]["volumeClaimTemplates"])
            .iter()
            .any(|claim| claim["metadata"]["name"] == "data")
    );
}

/// What the values say in the configuration's own words is in force, and secrets come from where they say.
#[test]
fn what_the_values_say_is_in_force() {
    let secrets = Secrets::new().unwrap();
    let chart = Chart::render(sets::EVERYTHING).unwrap();
    let serve = configuration(&chart, "serve", &secrets).unwrap();
    assert_eq!(serve["convert"]["level"], 6);
    assert_eq!(serve["convert"]["platforms"], json!(["linux/amd64", "linux/arm64"]));
    assert_eq!(serve["server"]["lease"], "15s");
    assert_eq!(serve["server"]["advertise"], "[fd00::7]:5083");
    assert_eq!(serve["server"]["mirror_listen"], "[::]:5082");
    assert_eq!(serve["server"]["tls_cert"], "/tls/tls.crt");
    assert_eq!(serve["storage"]["bucket"], "images");
    assert_eq!(serve["storage"]["path"], "/data");
    let upstream = |n: usize| &serve["upstream"][n];
    assert_eq!(upstream(0)["password_file"], "/upstreams/docker.io/password");
    assert_eq!(upstream(1)["docker_config"], "/upstreams/ghcr.io/config.json");
    assert_eq!(upstream(2)["ca_file"], "/upstreams/registry.example/ca.crt");
    let production = Chart::render(sets::PRODUCTION).unwrap();
    let worker = configuration(&production, "worker", &secrets).unwrap();
    assert_eq!(worker["server"]["advertise"], "10.9.8.7:5083");
    // The worker has no clients, so it is given no key to pose as the server with.
    let worker = configuration(&chart, "worker", &secrets).unwrap();
    for key in ["tls_cert", "tls_key", "htpasswd", "mirror_listen"] {
        assert_eq!(worker["server"].get(key), None, "{key}");
    }
    assert_eq!(worker["storage"], serve["storage"]);
    assert_eq!(worker["convert"], serve["convert"]);
    assert_eq!(worker["upstream"], serve["upstream"]);
    let migrate = configuration(&chart, "migrate", &secrets).unwrap();
    assert_eq!(text(&migrate["catalog"]["url"]), "postgres://owner@db.example/firstlight");
    assert_eq!(text(&serve["catalog"]["url"]), "postgres://firstlight@db.example/firstlight?sslmode=verify-full");
}

fn container_port(template: &Value, name: &str) -> u64 {
    let ports = list(&container(template)["ports"]);
    let port = ports.iter().find(|port| port["name"] == *name).unwrap_or_else(|| panic!("no port {name}"));
    port["containerPort"].as_u64().unwrap()
}
