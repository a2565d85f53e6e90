//! The values that the chart is rendered with.

/// What nobody changed.
pub(crate) const EMBEDDED: &str = "{}";

/// The least that production needs.
pub(crate) const PRODUCTION: &str = "
mode: production
postgres: {secretName: database}
s3: {bucket: images}
internal: {secretName: fleet}
";

/// Production with everything that can be on.
pub(crate) const EVERYTHING: &str = r#"
mode: production
nameOverride: images
image: {repository: registry.example/firstlight, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
imagePullSecrets: [{name: pull}]
config:
  server: {lease: 15s}
  storage: {min_free: 5%}
  convert: {level: 6, wait: 1m30s, chunk_size: 4MiB, platforms: [linux/amd64, linux/arm64]}
  cache: {max_size: 500GiB, max_age: 90d, grace: 15m, disk_cache_size: 10GiB}
  upstream:
    - {name: docker.io, default: true, visibility: shared, username: team, deny: ["secret/**"]}
    - {name: ghcr.io, visibility: shared}
    - {name: registry.example, url: "https://registry.example:5000", aliases: ["registry.example:5000"]}
upstreamSecrets:
  docker.io: {password: {secretName: hub}}
  ghcr.io: {dockerConfig: {secretName: ghcr}}
  registry.example: {ca: {secretName: house, key: ca.pem}}
logFormat: text
log: info,firstlight=debug
ipv6: true
mirror: {enabled: true}
tls: {secretName: certificate}
htpasswd: {secretName: users, key: auth}
postgres: {url: "postgres://firstlight@db.example/firstlight?sslmode=verify-full", secretName: password}
s3: {bucket: images, prefix: team/images, endpoint: "https://s3.example", region: eu-central-1, pathStyle: false, secretName: keys}
internal: {secretName: fleet}
migrate: {secretName: owner, urlKey: uri}
serve:
  replicas: 5
  podAnnotations: {example.com/note: serve}
  podLabels: {team: serve}
  nodeSelector: {disk: fast}
  tolerations: [{key: images, operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: Exists}]}]}}}
  priorityClassName: high
worker: {replicas: 3, podLabels: {team: worker}}
spool: {type: volume, size: 80Gi, storageClass: fast}
podDisruptionBudget: {maxUnavailable: 25%}
topologySpread: {whenUnsatisfiable: DoNotSchedule}
service: {type: LoadBalancer, port: 443, mirrorPort: 8443, annotations: {example.com/lb: internal}, loadBalancerClass: example.com/lb,
  loadBalancerSourceRanges: [10.0.0.0/8], externalTrafficPolicy: Local}
networkPolicy:
  clients: [{ipBlock: {cidr: 10.0.0.0/8}}]
  monitoring: [{namespaceSelector: {matchLabels: {purpose: metrics}}}]
  egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]
serviceMonitor: {enabled: true, labels: {release: prometheus}}
serviceAccount: {annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::000000000000:role/firstlight"}}
podLabels: {team: all}
podAnnotations: {example.com/note: all}
extraEnv: [{name: HTTPS_PROXY, value: "http://proxy.example:3128"}]
extraVolumes: [{name: scripts, configMap: {name: scripts}}]
extraVolumeMounts: [{name: scripts, mountPath: /scripts, readOnly: true}]
"#;

/// Production with everything off that can be.
pub(crate) const NOTHING: &str = "
mode: production
postgres: {url: 'postgres://db.example/firstlight'}
s3: {bucket: images}
internal: {secretName: fleet}
migrate: {enabled: false}
worker: {replicas: 0}
podDisruptionBudget: {enabled: false}
topologySpread: {enabled: false}
networkPolicy: {enabled: false}
serviceAccount: {create: false}
";

/// The embedded default with everything that it can have.
pub(crate) const EMBEDDED_FULL: &str = "
fullnameOverride: cache
config:
  convert: {enabled: false}
  upstream: [{name: docker.io, visibility: shared, username: team}]
upstreamSecrets: {docker.io: {password: {secretName: hub, key: password}, ca: {secretName: house, key: ca.pem}}}
mirror: {enabled: true}
tls: {secretName: certificate}
htpasswd: {secretName: users, key: auth}
volume: {existingClaim: images}
service: {type: NodePort, nodePort: 30500, mirrorNodePort: 30502}
serviceMonitor: {enabled: true}
";

/// All of them, by name.
pub(crate) const ALL: [(&str, &str); 5] = [
    ("embedded", EMBEDDED),
    ("production", PRODUCTION),
    ("everything", EVERYTHING),
    ("nothing", NOTHING),
    ("embedded, full", EMBEDDED_FULL),
];
