//! Values that cannot work are refused, with the value's name, before anything is installed.

use crate::chart::Chart;
use crate::sets;

/// Values on top of a set that works, and what the error says about them.
const EMBEDDED: [(&str, &str); 19] = [
    ("mode: cluster", "'/mode'"),
    ("replicas: 3", "'replicas'"),
    ("config: {convert: {level: 13}}", "'/config/convert/level'"),
    ("config: {convert: {level: '6'}}", "'/config/convert/level'"),
    ("config: {convert: {chunksize: 1MiB}}", "'chunksize'"),
    ("config: {convert: {wait: 3}}", "'/config/convert/wait'"),
    ("config: {cache: {max_size: 5Gi}}", "'/config/cache/max_size'"),
    ("config: {server: {listen: '0.0.0.0:80'}}", "'listen'"),
    ("config: {storage: {path: /data}}", "'path'"),
    ("config: {upstream: [{url: 'https://registry.example'}]}", "'name'"),
    ("config: {upstream: [{name: docker.io, password: abc}]}", "'password'"),
    ("volume: {size: 10 GB}", "'/volume/size'"),
    ("image: {digest: latest}", "'/image/digest'"),
    ("service: {port: 70000}", "'/service/port'"),
    ("tls: {secretName: 'no name'}", "'/tls/secretName'"),
    ("preStopSleepSeconds: 40", "terminationGracePeriodSeconds: "),
    ("upstreamSecrets: {docker.io: {password: {secretName: hub}}}", "upstreamSecrets: config.upstream has no entry"),
    ("s3: {bucket: images}", "s3.bucket: mode: embedded does not use it"),
    ("postgres: {secretName: database}", "postgres.secretName: mode: embedded does not use it"),
];

/// The same on top of production's values, whose keys these replace.
const PRODUCTION: [(&str, &str); 7] = [
    ("postgres: {secretName: ''}", "postgres.secretName: mode: production needs"),
    ("s3: {bucket: ''}", "s3.bucket: mode: production needs"),
    ("internal: {secretName: ''}", "internal.secretName: mode: production needs"),
    ("postgres: {url: 'postgres://firstlight:password@db.example/firstlight'}", "'/postgres/url'"),
    ("s3: {bucket: images, endpoint: 's3.example'}", "'/s3/endpoint'"),
    ("spool: {type: hostPath}", "'/spool/type'"),
    ("serve: {replicas: 0}", "'/serve/replicas'"),
];

#[test]
fn wrong_values_are_refused_by_name() {
    for (values, expected) in EMBEDDED {
        check(values, expected);
    }
    for (values, expected) in PRODUCTION {
        let replaced = values.split(':').next().unwrap();
        let kept: Vec<_> = sets::PRODUCTION.lines().filter(|line| !line.starts_with(replaced)).collect();
        check(&format!("{}\n{values}\n", kept.join("\n")), expected);
    }
}

fn check(values: &str, expected: &str) {
    let error = format!("{:#}", Chart::render(values).expect_err(values));
    assert!(error.contains(expected), "{values}\n{error}");
}
