//! `docs/examples/compose.yaml` is a Compose file, holds together, and configures the program.

use std::process::Command;

use anyhow::Result;
use e2e::{Scratch, run, workspace};
use serde_json::{Value, json};

use crate::chart::{list, text};
use crate::tools::{config_check, tool};

/// The variables that the file asks for.
const VARIABLES: [(&str, &str); 3] = [
    ("POSTGRES_PASSWORD", "database-password"),
    ("S3_SECRET_KEY", "secret-key"),
    ("INTERNAL_SECRET", "0123456789abcdef0123456789abcdef"),
];

/// The file as Compose reads it, with some variables.
fn project(variables: &[(&str, &str)]) -> Result<Value> {
    let mut compose: Command = tool("compose");
    compose.arg(workspace("docs/examples/compose.yaml")).env_clear().envs(variables.iter().copied());
    Ok(serde_json::from_str(&run(&mut compose)?)?)
}

#[test]
fn compose_accepts_it_with_its_secrets_only() {
    project(&VARIABLES).unwrap();
    for (left_out, _) in &VARIABLES[..2] {
        let rest: Vec<_> = VARIABLES.into_iter().filter(|(name, _)| name != left_out).collect();
        let error = format!("{:#}", project(&rest).expect_err(left_out));
        assert!(error.contains(left_out) && error.contains("set it in .env"), "{error}");
    }
}

/// Two replicas behind the balancer, a worker, and the schema and the bucket before them; only the balancer can be reached from outside.
#[test]
fn the_parts_hold_together() {
    let project = project(&VARIABLES).unwrap();
    let services = project["services"].as_object().unwrap();
    let command = |word: &str| -> Vec<&str> {
        let run_by = |service: &Value| service["command"] == json!([word]);
        services.iter().filter(|(_, service)| run_by(service)).map(|(name, _)| name.as_str()).collect()
    };
    let serving = command("serve");
    assert!(serving.len() >= 2, "{serving:?}");
    let balancer = text(&project["configs"]["balancer"]["content"]);
    for name in &serving {
        assert!(balancer.contains(&format!("server {name} {name}:5080")), "{balancer}");
    }
    let working = command("worker");
    assert_eq!(working.len(), 1);
    for name in serving.iter().chain(&working) {
        let service = &services[*name];
        assert_eq!(service["depends_on"]["migrate"]["condition"], "service_completed_successfully", "{name}");
        assert_eq!(service["depends_on"]["bucket"]["condition"], "service_completed_successfully", "{name}");
        assert_eq!(service["environment"]["FIRSTLIGHT_SERVER_ADVERTISE"], format!("{name}:5083"));
        let grace: u64 = text(&service["stop_grace_period"]).trim_end_matches('s').parse().unwrap();
        assert!(grace > 30, "{name}");
        let volume = &list(&service["volumes"])[0];
        assert_eq!(
            (text(&volume["source"]), text(&volume["target"])),
            ((*name).to_owned(), text(&service["environment"]["FIRSTLIGHT_STORAGE_PATH"]))
        );
    }
    assert_eq!(services["migrate"]["depends_on"]["postgres"]["condition"], "service_healthy");
    let open: Vec<_> = services.iter().filter(|(_, service)| service.get("ports").is_some()).collect();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].0, "balancer");
    assert_eq!(open[0].1["ports"][0]["host_ip"], "127.0.0.1");
}

#[test]
fn the_program_accepts_what_it_configures() {
    let project = project(&VARIABLES).unwrap();
    let services = project["services"].as_object().unwrap();
    let scratch = Scratch::new().unwrap();
    let secret = scratch.write("internal", VARIABLES[2].1).unwrap().display().to_string();
    let mut checked = 0;
    for (name, service) in services.iter().filter(|(_, service)| service["image"] == services["worker"]["image"]) {
        let env: Vec<_> = service["environment"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(variable, value)| (variable.clone(), text(value).replace("/run/secrets/internal", &secret)))
            .collect();
        let config = config_check(&[], &env).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert_eq!(config["catalog"]["url"], "postgres://firstlight@postgres/firstlight", "{name}");
        checked += 1;
    }
    assert_eq!(checked, 4);
}
