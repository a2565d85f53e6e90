//! Writes the configuration as TOML.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Config;

/// Returns `config` as a TOML file.
pub(super) fn write(config: &Config) -> String {
    let mut text = String::new();
    // Serialising plain structs with text keys cannot fail.
    let Ok(Value::Object(tables)) = serde_json::to_value(config) else { return text };
    for (name, value) in &tables {
        match value {
            Value::Object(keys) => write_table(&mut text, &format!("[{name}]"), keys),
            Value::Array(entries) => {
                for keys in entries.iter().filter_map(Value::as_object) {
                    write_table(&mut text, &format!("[[{name}]]"), keys);
                }
            }
            _ => {}
        }
    }
    text
}

fn write_table(text: &mut String, head: &str, keys: &Map<String, Value>) {
    if !text.is_empty() {
        text.push('\n');
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{head}");
    for (key, value) in keys {
        // The values are texts, numbers, booleans and lists of texts. JSON writes DEL as it is, TOML may not.
        let value = value.to_string().replace('\u{7f}', "\\u007f").replace("\",\"", "\", \"");
        let _ = writeln!(text, "{key} = {value}");
    }
}
