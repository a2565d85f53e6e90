//! [`Challenge`]: what a registry asks for in `WWW-Authenticate` (RFC 9110 §11.6.1, distribution's
//! token specification).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// A way to authenticate that we can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token that `realm` gives out.
    Bearer {
        /// The token endpoint's URL; not yet checked.
        realm: String,
        /// The service to name to it.
        service: Option<String>,
        /// The scope to ask for.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Returns the challenge to take among all that `headers` make, Bearer before Basic; `None`
    /// when there is none that we can take.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let offers: Vec<Offer> = texts.flat_map(offers).collect();
        let bearer = offers.iter().find_map(|offer| {
            let realm = offer.scheme.eq_ignore_ascii_case("bearer").then(|| offer.get("realm"))??;
            Some(Self::Bearer { realm, service: offer.get("service"), scope: offer.get("scope") })
        });
        bearer.or_else(|| offers.iter().any(|o| o.scheme.eq_ignore_ascii_case("basic")).then_some(Self::Basic))
    }
}

struct Offer {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Offer {
    fn get(&self, name: &str) -> Option<String> {
        self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    }
}

/// Reads a list of challenges. A word before `=` is a parameter of the challenge at hand, any other
/// word begins a new one; what fits neither is skipped.
fn offers(text: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| !is_word(c));
        if rest.is_empty() {
            return offers;
        }
        let (word, after) = split_word(rest);
        let after = after.trim_start_matches([' ', '\t']);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = split_value(value.trim_start_matches([' ', '\t']));
            if let Some(offer) = offers.last_mut() {
                offer.parameters.push((word.into(), value));
            }
            rest = after;
        } else {
            offers.push(Offer { scheme: word.into(), parameters: Vec::new() });
            rest = after;
        }
    }
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c, '!'..='\'' | '*' | '+' | '-' | '.' | '^' | '_' | '`' | '|' | '~') && c != '"'
}

fn split_word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_word(c)).unwrap_or(text.len()))
}

fn split_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries send their URL without quotes, which the grammar does not allow.
        let (value, rest) = text.split_at(text.find([',', ' ']).unwrap_or(text.len()));
        return (value.into(), rest);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub =
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        let table: [(&[&str], Option<Challenge>); 10] = [
            (&[hub], bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull"))),
            (&[r#"bearer realm="https://a/t""#], bearer("https://a/t", None, None)),
            (&[r#"Bearer realm = "https://a/t" , service = x"#], bearer("https://a/t", Some("x"), None)),
            (&["Bearer realm=https://a/t,service=x"], bearer("https://a/t", Some("x"), None)),
            (&[r#"Basic realm="r", Bearer realm="https://a/t""#], bearer("https://a/t", None, None)),
            (&[r#"Basic realm="r""#, r#"Bearer realm="https://a/t""#], bearer("https://a/t", None, None)),
            (&[r#"Basic realm="a, Bearer realm=\"x\"""#], Some(Challenge::Basic)),
            (&["Bearer"], None),
            (&["Negotiate abc==", "Basic"], Some(Challenge::Basic)),
            (&["", "=,=,\"", "Bearer realm=\"https://a"], bearer("https://a", None, None)),
        ];
        for (lines, expected) in table {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(Challenge::from_headers(&headers), expected, "{lines:?}");
        }
    }
}
