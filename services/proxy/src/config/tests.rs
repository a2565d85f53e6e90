use std::io::Write as _;

use super::*;

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Config::load(Some(file.path()), env.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

/// Returns the errors with `LINE: ` or `VARIABLE: ` before each.
fn errors(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let errors = load(text, env).expect_err("was accepted");
    let line = |error: &ConfigError| match &error.place {
        Place::Line(_, line) => format!("{line}: {}: {}", error.key, error.problem),
        _ => error.to_string(),
    };
    errors.iter().map(line).collect()
}

#[track_caller]
fn check_error(text: &str, env: &[(&str, &str)], expected: &str) {
    let errors = errors(text, env);
    assert!(errors.len() == 1 && errors[0].starts_with(expected), "expected {expected:?}, not {errors:#?}");
}

#[test]
fn nothing_set_gives_the_defaults() {
    let config = Config::load(None, std::iter::empty()).unwrap();
    let expected = r#"[server]
listen = "127.0.0.1:5080"
admin_listen = "127.0.0.1:5081"
lease = "10s"

[storage]
backend = "fs"
path = "./firstlight-data"
min_free = "10%"

[catalog]
url = "sqlite:./firstlight-data/catalog.db"

[convert]
enabled = true
wait = "3s"
level = 5
chunk_size = "1MiB"
workers = 0
platforms = ["linux/amd64"]
min_layer_size = "0"

[cache]
max_size = "0"
max_age = "0s"
grace = "10m"
disk_cache_size = "20GiB"
tag_ttl = "1m"
max_stale = "7d"

[[upstream]]
name = "docker.io"
aliases = ["index.docker.io", "registry-1.docker.io"]
url = "https://registry-1.docker.io"
auth_hosts = ["auth.docker.io"]
default = true
view = "estargz"
mirror_view = "original"
visibility = "public"
tag_ttl = "1m"
plain_http = false
"#;
    let text = config.describe();
    assert!(text.starts_with(expected), "{text}");
    let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(
        names,
        ["docker.io", "ghcr.io", "quay.io", "gcr.io", "registry.k8s.io", "mcr.microsoft.com", "public.ecr.aws"]
    );
    assert_eq!(config.upstreams.default_upstream().name, "docker.io");
    assert_eq!(config.upstreams.get("index.docker.io").unwrap().name, "docker.io");
    assert!(config.upstreams.get("evil.example").is_none());
    assert!(config.convert.worker_count() >= 1);
}

#[test]
fn the_example_of_the_design_loads() {
    let text = "[server]\nlisten = \"127.0.0.1:5080\"\nmirror_listen = \"\"\ntls_cert = \"\"\ntls_key = \"\"\nhtpasswd = \"\"\n\
                internal_listen = \"\"\nadvertise = \"\"\n[storage]\nbackend = \"fs\"\n[cache]\nmax_size = \"0\"\n\
                disk_cache_size = \"20GiB\"\n";
    assert_eq!(load(text, &[]).unwrap().cache.disk_cache_size.bytes(), 20 << 30);
}

#[test]
fn a_bucket_is_described_and_reached_as_it_was_given() {
    let text = "[storage]\nbackend = \"s3\"\nbucket = \"blobs\"\nprefix = \"team/firstlight\"\nregion = \"eu-central-1\"\n\
                [cache]\ndisk_cache_size = \"1GiB\"\n";
    let aws = load(text, &[]).unwrap();
    assert_eq!(load(&aws.describe(), &[]).unwrap(), aws);
    let s3 = aws.storage.s3().unwrap();
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.path_style), ("blobs", "team/firstlight", false));
    let other = load(text, &[("FIRSTLIGHT_STORAGE_ENDPOINT", "http://s3.local:8333/")]).unwrap().storage.s3().unwrap();
    assert_eq!((other.endpoint.as_deref(), other.path_style), (Some("http://s3.local:8333"), true));
    let host = [("FIRSTLIGHT_STORAGE_ENDPOINT", "https://s3.local"), ("FIRSTLIGHT_STORAGE_PATH_STYLE", "false")];
    assert!(!load(text, &host).unwrap().storage.s3().unwrap().path_style);
    assert_eq!(load("", &[]).unwrap().storage.s3(), None);
}

#[test]
fn describe_gives_the_same_configuration_again() {
    let folder = tempfile::tempdir().unwrap();
    let TlsFiles { cert, key } = crate::tls::tests::make_pair(folder.path());
    let (secret, login) = (folder.path().join("secret"), folder.path().join("config.json"));
    std::fs::write(&secret, "# no users\n").unwrap();
    std::fs::write(&login, r#"{"auths": {"b.example": {"username": "me", "password": "x"}}}"#).unwrap();
    let [cert, key, file, login] = [&cert, &key, &secret, &login].map(|path| path.display());
    let text = format!(
        "[server]\nlisten = \"0.0.0.0:80\"\nmirror_listen = \"[::1]:5082\"\nhtpasswd = \"{file}\"\n\
         tls_cert = \"{cert}\"\ntls_key = \"{key}\"\n[storage]\npath = \"/data with \\\"quotes\\\"\"\nmin_free = \"2.5%\"\n\
         [convert]\nwait = \"1m30s\"\nplatforms = [\"linux/amd64\", \"linux/arm/v7\"]\nchunk_size = \"128KiB\"\n\
         min_layer_size = 1000\n[cache]\ntag_ttl = \"1h\"\nmax_stale = \"0\"\n\
         [[upstream]]\nname = \"a\"\nurl = \"http://localhost:5000/\"\nplain_http = true\ndefault = true\n\
         visibility = \"shared\"\nusername = \"me\"\npassword_file = \"{file}\"\nallow = [\"x/**\", \"y/*\"]\n\
         deny = [\"x/secret\"]\nca_file = \"{cert}\"\naliases = [\"localhost:5000\"]\nview = \"original\"\n\
         [[upstream]]\nname = \"b.example\"\nvisibility = \"shared\"\ndocker_config = \"{login}\"\ntag_ttl = \"5s\"\n"
    );
    let config = load(&text, &[]).unwrap();
    assert_eq!(config.catalog.url.to_string(), "sqlite:/data with \"quotes\"/catalog.db");
    assert_eq!(config.upstreams.iter().next().unwrap().url, "http://localhost:5000");
    assert_eq!(config.upstreams.get("b.example").unwrap().url, "https://b.example");
    assert_eq!(config.upstreams.get("a").unwrap().tag_ttl.as_secs(), 3600);
    assert_eq!(load(&config.describe(), &[]).unwrap(), config);
}

/// A database's password is used, and never printed.
#[test]
fn a_catalog_url_is_printed_without_its_password() {
    let text = "[catalog]\nurl = \"postgres://me:secret@db.example/firstlight?sslmode=verify-full\"\n";
    let config = load(text, &[]).unwrap();
    assert!(config.catalog.url == CatalogUrl::parse(text.split('"').nth(1).unwrap()).unwrap());
    for printed in [config.describe(), format!("{config:?}"), serde_json::to_string(&config).unwrap()] {
        assert!(printed.contains("postgres://me@db.example/firstlight?sslmode=verify-full"), "{printed}");
        assert!(!printed.contains("secret"), "{printed}");
    }
}

#[test]
fn variables_win_over_the_file() {
    let text = "[convert]\nlevel = 99\n[[upstream]]\nname = \"a\"\ndefault = true\n[[upstream]]\nname = \"b\"\n";
    let config = load(
        text,
        &[
            ("FIRSTLIGHT_CONVERT_LEVEL", "9"),
            ("FIRSTLIGHT_CONVERT_ENABLED", "false"),
            ("FIRSTLIGHT_CONVERT_PLATFORMS", "linux/amd64, linux/arm64"),
            ("FIRSTLIGHT_SERVER_MIRROR_LISTEN", "127.0.0.1:5082"),
            ("FIRSTLIGHT_UPSTREAM_1_URL", "https://b.example:8443"),
            ("FIRSTLIGHT_UPSTREAM_2_NAME", "c"),
            ("FIRSTLIGHT_SERVICE_HOST", "10.0.0.1"),
            ("FIRSTLIGHT_SERVER_PORT_5080_TCP_ADDR", "10.0.0.1"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!((config.convert.level, config.convert.enabled, config.convert.platforms.len()), (9, false, 2));
    assert!(config.server.mirror_listen.is_some());
    let urls: Vec<_> = config.upstreams.iter().map(|upstream| upstream.url.as_str()).collect();
    assert_eq!(urls, ["https://a", "https://b.example:8443", "https://c"]);
}

#[test]
fn config_variable_names_the_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"[convert]\nlevel = 3\n").unwrap();
    let env = || [(CONFIG_VARIABLE.to_owned(), file.path().display().to_string())].into_iter();
    assert_eq!(Config::load(None, env()).unwrap().convert.level, 3);
    let missing = Config::load(Some(Path::new("/nowhere.toml")), env()).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere.toml: cannot be read: "), "{missing}");
}

#[test]
fn wrong_values_name_key_and_line() {
    let cases = [
        ("[server]\nlisten = \"localhost\"", "2: server.listen: expected an IP address and a port"),
        ("[server]\nlisten = \"\"", "2: server.listen: expected an IP address"),
        (
            "[server]\nadmin_listen = \"0.0.0.0:5080\"",
            "2: server.admin_listen: 0.0.0.0:5080 is the address of server.listen",
        ),
        ("[server]\nmirror_listen = \"127.0.0.1:5081\"", "2: server.mirror_listen: "),
        ("[server]\ntls_cert = \"/dev/null\"", "2: server.tls_cert: server.tls_key must be set too"),
        ("[server]\n\nhtpasswd = \"/nowhere\"", "3: server.htpasswd: cannot read /nowhere: "),
        ("[server]\nhtpasswd = \"/\"", "2: server.htpasswd: / is a directory"),
        ("[server]\nlease = \"10ms\"", "2: server.lease: expected at least 1s"),
        ("[server]\nadvertise = \"a:1\"", "2: server.advertise: it is of no use without server.internal_listen"),
        ("[server]\nport = 1", "2: server.port: unknown key; the keys here are admin_listen, advertise, "),
        ("[storage]\nbackend = \"s3\"", "2: storage.backend: storage.bucket must be set too"),
        ("[storage]\nbucket = \"blobs\"", "2: storage.bucket: needs backend = \"s3\""),
        ("[storage]\npath_style = true", "2: storage.path_style: needs backend = \"s3\""),
        ("[storage]\nbackend = \"tape\"", "2: storage.backend: expected fs or s3, not \"tape\""),
        ("[storage]\nbackend = \"s3\"\nbucket = \"a/b\"", "3: storage.bucket: expected a bucket's name, not \"a/b\""),
        (
            "[storage]\nbackend = \"s3\"\nbucket = \"abc\"\nprefix = \"/x\"",
            "4: storage.prefix: expected a path such as",
        ),
        ("[storage]\nbackend = \"s3\"\nbucket = \"abc\"\nprefix = \"x/../y\"", "4: storage.prefix: expected a path"),
        ("[storage]\nbackend = \"s3\"\nbucket = \"abc\"\nregion = \"a b\"", "4: storage.region: expected a region"),
        (
            "[storage]\nbackend = \"s3\"\nbucket = \"abc\"\nendpoint = \"s3.local\"",
            "4: storage.endpoint: expected http[s]://HOST[:PORT], not \"s3.local\"",
        ),
        ("[storage]\nmin_free = \"101%\"", "2: storage.min_free: expected a part such as 10%"),
        ("[catalog]\nurl = \"postgres://u:secret@h/d?pasword=secret\"", "2: catalog.url: unknown parameter pasword"),
        ("[catalog]\nurl = \"postgres://u:secret@h:port/d\"", "2: catalog.url: "),
        ("[catalog]\nurl = \"mysql://u:secret@h/d\"", "2: catalog.url: expected sqlite:PATH or postgres://"),
        ("[catalog]\nurl = \"sqlite::memory:\"", "2: catalog.url: expected sqlite:PATH"),
        ("[convert]\nwait = 3", "2: convert.wait: expected a length of time such as 500ms, 3s, 1h30m or 7d, not 3"),
        ("[convert]\nwait = \"6m\"", "2: convert.wait: expected at most 5m, not \"6m\""),
        ("[convert]\nlevel = 0", "2: convert.level: expected a number from 1 to 12, not 0"),
        ("[convert]\nlevel = \"6\"", "2: convert.level: expected a number from 1 to 12, not \"6\""),
        ("[convert]\nlevel = 6.5", "2: convert.level: expected a number from 1 to 12, not a fraction"),
        ("[convert]\nenabled = \"yes\"", "2: convert.enabled: expected true or false, not \"yes\""),
        ("[convert]\nchunk_size = \"3MiB\"", "2: convert.chunk_size: expected a power of two from 64KiB to 64MiB"),
        ("[convert]\nchunk_size = \"128MiB\"", "2: convert.chunk_size: expected a power of two"),
        ("[convert]\nplatforms = []", "2: convert.platforms: expected 1 to 32 platforms"),
        ("[convert]\nplatforms = [\"amd64\"]", "2: convert.platforms: \"amd64\" is not a platform"),
        ("[convert]\nplatforms = [\"a/b\", \"a/b\"]", "2: convert.platforms: a/b is there twice"),
        ("[cache]\ngrace = \"500ms\"", "2: cache.grace: expected at least 1s"),
        ("[cache]\nmax_size = \"lots\"", "2: cache.max_size: expected a size such as 64KiB"),
        ("[proxy]\nx = 1", "1: proxy: unknown; the tables are server, storage, catalog, convert, cache and upstream"),
        ("cache = 1", "1: cache: expected [cache]"),
        ("[upstream]\nname = \"a\"", "1: upstream: expected [[upstream]]"),
        ("[convert]\nlevel = 6\nlevel = 7", "3: : duplicate key"),
        ("[convert", "1: : "),
    ];
    for (text, expected) in cases {
        check_error(text, &[], expected);
    }
}

#[test]
fn wrong_upstreams_name_key_and_line() {
    let cases = [
        ("url = \"https://a\"", "1: upstream[0].name: must be set"),
        ("name = \"a/b\"", "2: upstream[0].name: expected one segment of a repository name"),
        ("name = \"a\"\nurl = \"a.example\"", "3: upstream[0].url: expected https://HOST[:PORT]"),
        ("name = \"a\"\nurl = \"https://me:secret@a.example\"", "3: upstream[0].url: expected https://HOST[:PORT]"),
        ("name = \"a\"\nurl = \"https://a.example/v2/\"", "3: upstream[0].url: expected https://HOST[:PORT]"),
        ("name = \"a\"\nurl = \"http://a.example\"", "3: upstream[0].url: http:// needs plain_http = true"),
        ("name = \"a\"\naliases = [\"A.example\"]", "3: upstream[0].aliases: \"A.example\" is not a host"),
        ("name = \"a\"\nauth_hosts = [\"https://x\"]", "3: upstream[0].auth_hosts: \"https://x\" is not a host"),
        ("name = \"a\"\naliases = [\"a\"]", "3: upstream[0].aliases: \"a\" is a name of the upstream \"a\" already"),
        ("name = \"a\"\ndefault = false", "upstream: one of them must have default = true"),
        ("name = \"a\"\n[[upstream]]\nname = \"b\"", "upstream: one of them must have default = true"),
        (
            "name = \"a\"\ndefault = true\n[[upstream]]\nname = \"a\"",
            "5: upstream[1].name: \"a\" is a name of the upstream \"a\" already",
        ),
        (
            "name = \"a\"\ndefault = true\n[[upstream]]\nname = \"b\"\ndefault = true",
            "6: upstream[1].default: another upstream is the default already",
        ),
        ("name = \"a\"\nview = \"zip\"", "3: upstream[0].view: expected estargz or original, not \"zip\""),
        ("name = \"a\"\nvisibility = \"caller\"", "3: upstream[0].visibility: not built yet in this version"),
        (
            "name = \"a\"\nusername = \"u\"\npassword_file = \"/dev/null\"",
            "1: upstream[0].visibility: an upstream with credentials",
        ),
        (
            "name = \"a\"\nvisibility = \"shared\"\nusername = \"u\"",
            "4: upstream[0].username: password_file must be set too",
        ),
        ("name = \"a\"\npassword_file = \"/dev/null\"", "3: upstream[0].password_file: username must be set too"),
        ("name = \"a\"\nallow = [\"A\"]", "3: upstream[0].allow: \"A\" is not a pattern"),
        ("name = \"a\"\npassword = \"hunter2\"", "3: upstream[0].password: unknown key; the keys here are aliases, "),
    ];
    for (text, expected) in cases {
        check_error(&format!("[[upstream]]\n{text}"), &[], expected);
        assert!(!errors(&format!("[[upstream]]\n{text}"), &[])[0].contains("hunter2"));
        assert!(!errors(&format!("[[upstream]]\n{text}"), &[])[0].contains("secret"));
    }
}

/// A file that can be read but not used is a wrong value too.
#[test]
fn useless_files_name_key_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (name, bytes) in [("text", &b"no file of any kind\n"[..]), ("latin1", b"p\xe4ss"), ("json", b"{}")] {
        std::fs::write(path(name), bytes).unwrap();
    }
    let TlsFiles { cert, key } = crate::tls::tests::make_pair(folder.path());
    let (cert, key) = (cert.display(), key.display());
    let [text, latin1, json] = ["text", "latin1", "json"].map(path);
    let server = [
        (format!("htpasswd = \"{text}\""), "2: server.htpasswd: ", "text:1: expected USER:HASH"),
        (format!("tls_cert = \"{text}\"\ntls_key = \"{key}\""), "2: server.tls_cert: ", "no certificate in PEM form"),
        (format!("tls_cert = \"{cert}\"\ntls_key = \"{text}\""), "3: server.tls_key: ", "no private key in PEM form"),
    ];
    let login = "username = \"u\"\npassword_file";
    let upstream = [
        (format!("{login} = \"{latin1}\""), "5: upstream[0].password_file: ", "UTF-8"),
        (format!("docker_config = \"{text}\""), "4: upstream[0].docker_config: ", "not valid at line 1"),
        (format!("docker_config = \"{json}\""), "4: upstream[0].docker_config: ", "no credentials for a"),
        (format!("ca_file = \"{text}\""), "4: upstream[0].ca_file: ", "no certificate"),
        (format!("ca_file = \"{key}\""), "4: upstream[0].ca_file: ", "no certificate"),
    ];
    let server = server.map(|(keys, place, why)| (format!("[server]\n{keys}"), place, why));
    let upstream = upstream
        .map(|(keys, place, why)| (format!("[[upstream]]\nname = \"a\"\nvisibility = \"shared\"\n{keys}"), place, why));
    for (text, place, why) in server.into_iter().chain(upstream) {
        check_error(&text, &[], place);
        let error = errors(&text, &[]).remove(0);
        assert!(error.contains(why) && !error.contains("no file of any kind"), "expected {why:?}, not {error:?}");
    }
    let both = format!(
        "[[upstream]]\nname = \"a\"\nvisibility = \"shared\"\ndocker_config = \"{json}\"\nca_file = \"{text}\""
    );
    assert_eq!(errors(&both, &[]).len(), 2);
}

#[test]
fn wrong_variables_are_named() {
    let cases = [
        (("FIRSTLIGHT_CONVERT_LEVEL", "x"), "FIRSTLIGHT_CONVERT_LEVEL: convert.level: expected a number from 1 to 12"),
        (("FIRSTLIGHT_CONVERT_LEVELS", "1"), "FIRSTLIGHT_CONVERT_LEVELS: convert.levels: unknown key"),
        (("FIRSTLIGHT_CONVERSION_LEVEL", "1"), "FIRSTLIGHT_CONVERSION_LEVEL: unknown variable"),
        (("FIRSTLIGHT_UPSTREAM_1_NAME", "a"), "FIRSTLIGHT_UPSTREAM_1_NAME: upstream[1].name: there is no upstream 0"),
        (("FIRSTLIGHT_STORAGE_BACKEND", "s3"), "FIRSTLIGHT_STORAGE_BACKEND: storage.backend: storage.bucket"),
    ];
    for (variable, expected) in cases {
        check_error("", &[variable], expected);
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let text = "[server]\nlisten = 1\nx = 1\n[convert]\nlevel = 0\n[[upstream]]\nname = \"A\"\nview = \"x\"\n[y]\n";
    let errors = errors(text, &[("FIRSTLIGHT_CACHE_TAG_TTL", "soon")]);
    assert_eq!(errors.len(), 7, "{errors:#?}");
}

#[test]
fn sizes_and_times_read_what_they_write() {
    for (text, bytes) in [("0", 0), ("17", 17), ("64KiB", 1 << 16), ("1mib", 1 << 20), ("5 GB", 5_000_000_000)] {
        let size = ByteSize::parse(text).unwrap();
        assert_eq!(size.bytes(), bytes, "{text}");
        assert_eq!(ByteSize::parse(&size.to_string()), Some(size));
    }
    for text in ["", "KiB", "-1", "1.5GiB", "1XiB", "99999999TiB", "1 2"] {
        assert_eq!(ByteSize::parse(text), None, "{text}");
    }
    for (text, of_1000) in [("10%", 100), ("2.5%", 25), ("0%", 0), ("100%", 1000), ("0.05%", 0), ("5KiB", 5120)] {
        let free = MinFree::parse(text).unwrap();
        assert_eq!(free.of(1000), of_1000, "{text}");
        assert_eq!(MinFree::parse(&free.to_string()), Some(free));
    }
    for text in ["", "%", "100.01%", "1.234%", "-1%", ".5%", "99999%"] {
        assert_eq!(MinFree::parse(text), None, "{text}");
    }
    for (text, millis) in [("0", 0), ("0s", 0), ("3s", 3000), ("1h30m", 5_400_000), ("7d", 604_800_000), ("250ms", 250)]
    {
        let time = duration::parse(text).unwrap();
        assert_eq!(time.as_millis(), millis, "{text}");
        assert_eq!(duration::parse(&duration::format(time)), Some(time));
    }
    for text in ["", "3", "s", "1s1s", "1s1h", "1 s", "-1s", "1.5s", "1w", "99999999999999999d"] {
        assert_eq!(duration::parse(text), None, "{text}");
    }
}

#[test]
fn patterns_cover_whole_names() {
    let cases = [
        ("library/python", "library/python", true),
        ("library/python", "library/python3", false),
        ("library/*", "library/python", true),
        ("library/*", "library/a/b", false),
        ("library/*", "library", false),
        ("*", "a", true),
        ("*", "a/b", false),
        ("**", "a/b/c", true),
        ("org/**", "org/a/b", true),
        ("org/**", "organ/a", false),
        ("**/app-*", "x/y/app-1", true),
        ("a*b*c", "abbbc", true),
        ("a*b*c", "ab", false),
        ("*a*a*a*a*a*a*a*a*b", &"a".repeat(200), false),
    ];
    for (pattern, name, expected) in cases {
        assert_eq!(Pattern::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
    }
    for bad in ["", "A", "a?", "***", "a b"] {
        assert_eq!(Pattern::parse(bad), None, "{bad}");
    }
}

#[test]
fn allow_and_deny_decide_together() {
    let config = load("[[upstream]]\nname = \"a\"\nallow = [\"x/**\"]\ndeny = [\"x/secret\"]\n", &[]).unwrap();
    let permits = |name| config.upstreams.default_upstream().permits(&api::RepositoryName::parse(name).unwrap());
    assert!(permits("x/app") && !permits("x/secret") && !permits("y"));
}

#[test]
fn the_documentation_names_every_key_and_its_example_loads() {
    let docs = include_str!("../../../../docs/CONFIGURATION.md");
    let (_, example) = docs.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    // Only the files of the example are missing here.
    for error in errors(example, &[]) {
        assert!(error.contains("cannot read /etc/firstlight/"), "{error}");
    }
    let unknown = "x = 1\n";
    for section in ["[server]", "[storage]", "[catalog]", "[convert]", "[cache]", "[[upstream]]\nname = \"a\""] {
        let errors = errors(&format!("{section}\n{unknown}"), &[]);
        let (_, keys) = errors[0].split_once("the keys here are ").unwrap();
        for key in keys.split(", ") {
            assert!(docs.contains(&format!("`{key}`")), "{section} {key} is not documented");
        }
    }
}
