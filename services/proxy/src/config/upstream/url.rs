//! The URL of a registry.

use http::Uri;
use http::uri::Authority;

use crate::config::value::Value;

/// Reads `https://HOST[:PORT]` (or `http://…` where `plain_http` allows it) and returns it without its
/// last slash. A refused value is not repeated: it may hold a password.
pub(super) fn read(value: &Value, plain_http: bool) -> Result<String, String> {
    let expected = || String::from("expected https://HOST[:PORT], without path or credentials");
    let text = value.text().ok_or_else(expected)?;
    let uri: Uri = text.parse().map_err(|_| expected())?;
    let authority = uri.authority().ok_or_else(expected)?;
    let bare = matches!(uri.path_and_query().map(|rest| rest.as_str()), None | Some("" | "/"));
    if !bare || text.contains(['#', '@']) || authority.host().is_empty() {
        return Err(expected());
    }
    match uri.scheme_str() {
        Some("https") => Ok(format!("https://{authority}")),
        Some("http") if plain_http => Ok(format!("http://{authority}")),
        Some("http") => Err("http:// needs plain_http = true".into()),
        _ => Err(expected()),
    }
}

/// Tells whether `text` is `HOST[:PORT]` in lower case.
pub(super) fn is_host(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
    match text.parse::<Authority>() {
        Ok(authority) => text.bytes().all(allowed) && !authority.host().is_empty() && !text.ends_with(':'),
        Err(_) => false,
    }
}
