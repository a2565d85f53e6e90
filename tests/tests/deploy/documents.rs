//! The chart's README and its values belong together.

use std::fs;

use e2e::workspace;
use serde_json::Value;

/// Every value that the schema knows is in the README's table, and every value of the table is one that the schema knows.
#[test]
fn the_readme_lists_every_value() {
    let schema: Value = serde_json::from_str(&read("helm/firstlight/values.schema.json")).unwrap();
    let mut values = Vec::new();
    collect(&schema, "", &mut values);
    values.sort();
    let readme = read("helm/firstlight/README.md");
    let table = readme.split("## Values").nth(1).unwrap();
    let mut listed: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| ")).flat_map(names).collect();
    listed.sort();
    assert_eq!(listed, values);
}

/// Returns the names in a row's first cell, each between backquotes.
fn names(row: &str) -> Vec<String> {
    let cell = row.split(" | ").next().unwrap_or_default();
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Collects the paths of the values. What `config` has in the configuration's own words is described in a document of its own.
fn collect(schema: &Value, path: &str, values: &mut Vec<String>) {
    match schema["properties"].as_object() {
        Some(properties) if !path.starts_with("config.") => {
            for (name, property) in properties {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(property, &below, values);
            }
        }
        // Helm's own.
        _ if path == "global" => {}
        _ => values.push(path.to_owned()),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace(path)).unwrap()
}
