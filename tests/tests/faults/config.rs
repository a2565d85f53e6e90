//! A configuration that cannot be used ends the program before it opens anything.

use std::net::TcpListener;
use std::process::Command;

use e2e::{Scratch, program, wait};

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
        let taken = TcpListener::bind(("127.0.0.1", wait::free_port())).unwrap();
        let at = taken.local_addr().unwrap().to_string();
        let mut command = Command::new(program().unwrap());
        command.arg("serve").arg("--config").arg(&file).current_dir(scratch.path());
        command.env("FIRSTLIGHT_SERVER_ADMIN_LISTEN", &at);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text:?}: {said}");
        assert!(said.contains(&format!("{}:{line}", file.display())), "{text:?} names no line: {said}");
        assert!(said.contains(key), "{text:?} names no key: {said}");
        assert!(!said.contains("cannot listen"), "{text:?}: {said}");
        assert!(!scratch.join("firstlight-data").try_exists().unwrap(), "{text:?} opened the store");
    }
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
