use std::io::Write as _;
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use tower::ServiceExt as _;

use super::*;

fn line(user: &str, password: &str, cost: u32) -> String {
    format!("{user}:{}\n", bcrypt::hash(password, cost).unwrap())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn basic(credentials: &str) -> HeaderMap {
    let value = format!("Basic {}", STANDARD.encode(credentials));
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&value).unwrap())])
}

#[tokio::test]
async fn only_right_passwords_pass() {
    let file = file(&format!("# people\n\n{}{}", line("ann", "right:with colon", 4), line("bob", "b", 4)));
    let gate = Gate::load(file.path()).unwrap();
    let cases = [
        ("ann:right:with colon", Verdict::Allowed),
        ("ann:right", Verdict::Refused),
        ("bob:right:with colon", Verdict::Refused),
        ("eve:right:with colon", Verdict::Refused),
        ("ann:", Verdict::Refused),
        ("ann", Verdict::Refused),
        (":", Verdict::Anonymous),
        (":x", Verdict::Anonymous),
        ("bob:b", Verdict::Allowed),
    ];
    // Twice: what is remembered must not change the answers.
    for (credentials, expected) in cases.iter().chain(&cases) {
        assert_eq!(gate.check(&basic(credentials)).await, *expected, "{credentials}");
    }
    assert_eq!(gate.check(&HeaderMap::new()).await, Verdict::Anonymous);
    let empty = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Basic Og=="))]);
    assert_eq!(gate.check(&empty).await, Verdict::Anonymous);
    for odd in ["Bearer abc", "Basic", "Basic %%%", "basic"] {
        let odd = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(odd))]);
        assert_eq!(gate.check(&odd).await, Verdict::Refused, "{odd:?}");
    }
    let mut two = basic("bob:b");
    two.append(AUTHORIZATION, HeaderValue::from_static("Basic Og=="));
    assert_eq!(gate.check(&two).await, Verdict::Refused);
}

#[tokio::test]
async fn a_right_password_is_checked_once() {
    // A second or so.
    let file = file(&line("ann", "a", 14));
    let gate = Gate::load(file.path()).unwrap();
    let headers = basic("ann:a");
    let begin = Instant::now();
    assert_eq!(gate.check(&headers).await, Verdict::Allowed);
    let first = begin.elapsed();
    let begin = Instant::now();
    for _ in 0..100 {
        assert_eq!(gate.check(&headers).await, Verdict::Allowed);
    }
    assert!(begin.elapsed() < first, "a hundred more took {:?}, the first {first:?}", begin.elapsed());
}

#[tokio::test]
async fn a_user_who_is_taken_out_is_out() {
    let file = file(&format!("{}{}", line("ann", "a", 4), line("bob", "b", 4)));
    let mut gate = Gate::load(file.path()).unwrap();
    gate.users.always_look();
    assert_eq!(gate.check(&basic("ann:a")).await, Verdict::Allowed);
    std::fs::write(file.path(), line("bob", "b", 4)).unwrap();
    assert_eq!(gate.check(&basic("ann:a")).await, Verdict::Refused);
    std::fs::write(file.path(), "broken").unwrap();
    assert_eq!(gate.check(&basic("bob:b")).await, Verdict::Allowed);
}

#[test]
fn wrong_lines_are_named() {
    let good = line("ann", "a", 4);
    let cases = [
        ("bob", "2: expected USER:HASH"),
        (":x", "2: the user name is empty"),
        ("bob:plain", "2: only bcrypt is known"),
        ("bob:$apr1$x$y", "2: only bcrypt is known"),
        ("bob:{SHA}x", "2: only bcrypt is known"),
        ("bob:$2y$05$short", "2: broken bcrypt hash"),
        ("bob:$2y$x$short", "2: broken bcrypt hash"),
        (&good.replace("$04$", "$17$").replace("ann", "bob"), "2: the bcrypt cost must be from 4 to 16"),
        (&good, "2: the user is there twice"),
    ];
    for (bad, expected) in cases {
        let file = file(&format!("{good}{bad}"));
        let error = Gate::load(file.path()).unwrap_err().to_string();
        let expected = format!("{}:{expected}", file.path().display());
        assert!(error.starts_with(&expected), "expected {expected:?}, not {error:?}");
    }
    assert!(matches!(Gate::load(Path::new("/nowhere")), Err(HtpasswdError::Read { .. })));
}

#[test]
fn lines_of_the_htpasswd_program_are_read() {
    // Made with `htpasswd -nbB ann secret`.
    let users = Users::parse(Path::new("x"), b"ann:$2y$05$6LH/ewzknmddlNWYPsft4O1YEV9hmdlREVGqVwvtpsdxPCawC4xVm\r\n");
    assert!(users.unwrap().verify("ann", b"secret"));
}

#[tokio::test]
async fn the_answer_is_a_challenge_and_credentials_end_here() {
    let file = file(&line("ann", "a", 4));
    let gate = Arc::new(Gate::load(file.path()).unwrap());
    let handler = async |headers: HeaderMap| headers.contains_key(AUTHORIZATION).to_string();
    let app = Router::new().route("/v2/", get(handler)).layer(axum::middleware::from_fn_with_state(gate, require));
    let ask = async |headers: HeaderMap| {
        let mut request = Request::builder().uri("/v2/").body(Body::empty()).unwrap();
        *request.headers_mut() = headers;
        let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
        (parts, axum::body::to_bytes(body, 1 << 16).await.unwrap())
    };
    for headers in [HeaderMap::new(), basic("ann:b")] {
        let (parts, body) = ask(headers).await;
        assert_eq!(parts.status, StatusCode::UNAUTHORIZED);
        assert_eq!(parts.headers[WWW_AUTHENTICATE], "Basic realm=\"firstlight\"");
        let body: ErrorBody = serde_json::from_slice(&body).unwrap();
        assert_eq!(body.errors[0].code, "UNAUTHORIZED");
    }
    let (parts, body) = ask(basic("ann:a")).await;
    assert_eq!((parts.status, body.as_ref()), (StatusCode::OK, &b"false"[..]));
}
