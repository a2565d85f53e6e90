//! A configuration that cannot be used ends the program before it opens anything.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use e2e::{Authority, Scratch, program};

/// Exit status 2, and the key and the line on standard error; the ports, which somebody else has, are not even tried.
#[test]
fn a_wrong_configuration_ends_with_2() {
    let cases = [
        ("[convert]\nlevl = 6\n", 2, "convert.levl"),
        ("[convert]\n\nlevel = 99\n", 3, "convert.level"),
        ("[convert]\nwait = \"soon\"\n", 2, "convert.wait"),
        ("[storage]\nbackend = \"s3\"\n", 2, "storage.bucket"),
        ("[server]\nlisten = \"localhost\"\n", 2, "server.listen"),
        ("[nonsense]\n", 1, "nonsense"),
        ("[cache]\ntag_ttl = 60\n", 2, "cache.tag_ttl"),
        ("[convert\n", 1, ""),
    ];
    for (text, line, key) in cases {
        let scratch = Scratch::new().unwrap();
        let file = scratch.write("bad.toml", text).unwrap();
        let said = refusal(&scratch, &["serve"], &file);
        assert!(said.contains(&format!("{}:{line}", file.display())), "{text:?} names no line: {said}");
        assert!(said.contains(key), "{text:?} names no key: {said}");
    }
}

/// A file that can be read but not used is a wrong value of its key; `config check` finds it too.
#[test]
fn a_useless_file_ends_with_2() {
    let (scratch, authority) = (Scratch::new().unwrap(), Authority::new().unwrap());
    let sign = |name| {
        let (certificate, key) = authority.sign(name, Ipv4Addr::LOCALHOST).unwrap();
        (certificate.display().to_string(), key.display().to_string())
    };
    let ((cert, key), (_, strange)) = (sign("localhost"), sign("strange"));
    let text = scratch.write("text", "no file of any kind\n").unwrap().display().to_string();
    let users = scratch.write("users", "# people\nann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n").unwrap();
    let password = scratch.join("password");
    std::fs::write(&password, b"gr\xfcn\n").unwrap();
    let tls = |cert: &str, key: &str| format!("[server]\ntls_cert = \"{cert}\"\ntls_key = \"{key}\"\n");
    let upstream = |keys: &str| format!("[[upstream]]\nname = \"a\"\nvisibility = \"shared\"\n{keys}\n");
    let cases = [
        (tls(&text, &key), 2, "server.tls_cert: no certificate in PEM form"),
        (tls(&cert, &text), 3, "server.tls_key: no private key in PEM form"),
        (tls(&cert, &strange), 2, "server.tls_cert: the certificate"),
        (format!("[server]\nhtpasswd = \"{}\"\n", users.display()), 2, "only bcrypt is known"),
        (
            upstream(&format!("username = \"u\"\npassword_file = \"{}\"", password.display())),
            5,
            "upstream[0].password_file",
        ),
        (upstream(&format!("docker_config = \"{text}\"")), 4, "upstream[0].docker_config"),
        (upstream(&format!("ca_file = \"{text}\"")), 4, "upstream[0].ca_file"),
    ];
    for (text, line, problem) in cases {
        let file = scratch.write("bad.toml", &text).unwrap();
        for arguments in [&["serve"][..], &["config", "check"]] {
            let said = refusal(&scratch, arguments, &file);
            assert!(said.contains(&format!("{}:{line}: ", file.display())), "{text:?} names no line: {said}");
            assert!(said.contains(problem), "{text:?} does not say {problem:?}: {said}");
        }
    }
}

/// Has the program refuse a configuration file, before it opens anything, and returns what it said.
fn refusal(scratch: &Scratch, arguments: &[&str], file: &Path) -> String {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut command = Command::new(program().unwrap());
    command.args(arguments).arg("--config").arg(file).current_dir(scratch.path());
    command.env("FIRSTLIGHT_SERVER_ADMIN_LISTEN", taken.local_addr().unwrap().to_string());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let what = format!("{arguments:?} {}: {said}", std::fs::read_to_string(file).unwrap());
    assert_eq!(output.status.code(), Some(2), "{what}");
    assert!(!said.contains("cannot listen"), "{what}");
    assert!(!scratch.join("firstlight-data").try_exists().unwrap(), "the store was opened: {what}");
    said
}

/// The same from the environment: the variable is named.
#[test]
fn a_wrong_variable_ends_with_2() {
    for (name, value) in [("FIRSTLIGHT_CONVERT_LEVEL", "many"), ("FIRSTLIGHT_CONVERT_LEVL", "6")] {
        let scratch = Scratch::new().unwrap();
        let output = Command::new(program().unwrap())
            .arg("serve")
            .env(name, value)
            .current_dir(scratch.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(name), "{name}: {said}");
    }
}
