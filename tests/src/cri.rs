//! containerd's CRI plugin, driven by `crictl` as a kubelet would.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::containerd::program;
use crate::{Node, Proc, Registry, Scratch, Snapshotter, digest, example, run, wait, workspace};

/// Nothing of a healthy test takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// A `containerd` with its CRI plugin on a snapshotter of ours.
#[derive(Debug)]
pub struct Cri {
    proc: Proc,
    cgroup: Cgroup,
    _node: Node,
    socket: PathBuf,
    scratch: Scratch,
}

impl Cri {
    /// Pushes an image that holds pods, and returns its reference.
    ///
    /// # Errors
    /// The registry takes no pushes.
    pub fn push_pause(registry: &Registry) -> Result<String> {
        const NAME: &str = "team/pause";
        registry.push("tiny", NAME, "base")?;
        let mut manifest = registry.document(NAME, "manifests/base")?;
        let config = manifest["config"]["digest"].as_str().context("config")?;
        let mut config = registry.document(NAME, &format!("blobs/{config}"))?;
        config["config"]["Cmd"] = json!(["/bin/sleep", "86400"]);
        let config = config.to_string();
        let digest = digest(config.as_bytes());
        manifest["config"]["size"] = config.len().into();
        manifest["config"]["digest"] = digest.as_str().into();
        registry.put_blob(NAME, &digest, config.into())?;
        let media_type =
            manifest["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json").to_owned();
        registry.put_manifest(NAME, "latest", &media_type, manifest.to_string().into())?;
        Ok(format!("{}/{NAME}:latest", registry.at()))
    }

    /// Starts the machine's containerd as `docs/examples/snapshotter/containerd.toml` says; `pause` is the image that pods are held
    /// by.
    ///
    /// # Errors
    /// It is not ready after a minute; the error carries its log.
    pub fn start(snapshotter: &Snapshotter, pause: &str) -> Result<Self> {
        Self::start_on(&Node::Machine, snapshotter, pause)
    }

    /// Starts a node's containerd 1, as [`Cri::start`] does the machine's.
    ///
    /// # Errors
    /// It is not ready after a minute; the error carries its log.
    pub fn start_on(node: &Node, snapshotter: &Snapshotter, pause: &str) -> Result<Self> {
        let more = format!(
            "[plugins.'io.containerd.grpc.v1.cri']\nrestrict_oom_score_adj = true\nstream_server_port = '0'\n\
             sandbox_image = '{pause}'\n"
        );
        Self::start_as(node, ("containerd.toml", "version = 2\n", &more), snapshotter, None)
    }

    /// Starts the containerd 2 whose programs are in a folder, as `docs/examples/snapshotter/containerd-2.toml` says.
    ///
    /// # Errors
    /// It is not ready after a minute; the error carries its log.
    pub fn start_2(snapshotter: &Snapshotter, pause: &str, programs: &Path) -> Result<Self> {
        let more = format!(
            "[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{pause}'\n\
             [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
             [plugins.'io.containerd.grpc.v1.cri']\nstream_server_port = '0'\n"
        );
        Self::start_as(&Node::Machine, ("containerd-2.toml", "version = 3\n", &more), snapshotter, Some(programs))
    }

    fn start_as(
        node: &Node,
        (file, version, more): (&str, &str, &str),
        snapshotter: &Snapshotter,
        programs: Option<&Path>,
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let (dir, socket) = (scratch.path().display(), scratch.join("c.sock"));
        snapshotter.knows(&socket)?;
        let folders = format!(
            "{version}root = '{dir}/root'\nstate = '{dir}/state'\n\
             disabled_plugins = ['io.containerd.internal.v1.opt']\n"
        );
        let address = snapshotter.address().display().to_string();
        let lies_in = snapshotter.root().display().to_string();
        let replaced = [
            (version, folders.as_str()),
            ("/run/firstlight-snapshotter/snapshotter.sock", address.as_str()),
            ("/var/lib/firstlight-snapshotter", lies_in.as_str()),
        ];
        let config = example(&format!("snapshotter/{file}"), &replaced)?;
        let config = format!("{config}\n[grpc]\naddress = '{}'\n{more}", socket.display());
        let config = scratch.write("config.toml", &config)?;
        // It keeps the sockets of its shims in /run/containerd, wherever its state is.
        let node = node.with_mounts()?;
        let mut command = program(&node, programs, "containerd");
        command.arg("-c").arg(config);
        let cgroup = Cgroup::new(&scratch);
        let mut proc = Proc::start(&command, &scratch.join("containerd.log"))?;
        proc.ready(|| run(crictl(&socket).arg("version")).is_ok())?;
        Ok(Self { proc, cgroup, _node: node, socket, scratch })
    }

    /// Returns a `crictl` command for this daemon.
    pub fn crictl(&self) -> Command {
        crictl(&self.socket)
    }

    /// Returns what the daemon has logged.
    pub fn log(&self) -> String {
        self.proc.log()
    }

    /// Returns how long after `begin` each pull was asked for that its log tells of, and how long after it each was answered, the
    /// earliest first.
    ///
    /// # Errors
    /// The log is not as containerd writes it.
    pub fn pulls_since(&self, begin: SystemTime) -> Result<(Vec<Duration>, Vec<Duration>)> {
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        for line in self.log().lines().filter(|line| line.contains("msg=\"PullImage ")) {
            let (_, at) = line.split_once("time=\"").with_context(|| line.to_owned())?;
            let (at, _) = at.split_once('"').with_context(|| line.to_owned())?;
            let at = humantime::parse_rfc3339(at).with_context(|| line.to_owned())?;
            let times = if line.contains(" returns ") { &mut answered } else { &mut asked };
            times.extend(at.duration_since(begin).ok());
        }
        asked.sort_unstable();
        answered.sort_unstable();
        Ok((asked, answered))
    }

    /// Runs a command in a container of an image, in a pod of its own, and returns its output.
    ///
    /// # Errors
    /// The container failed; the error carries its output.
    pub fn run(&self, reference: &str, arguments: &[&str]) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("firstlight-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let logs = self.scratch.folder("logs")?;
        // The node's own network, processes and IPC: there is no CNI here.
        let pod = json!({
            "metadata": {"name": name, "uid": name, "namespace": "default"},
            "log_directory": logs,
            "linux": {
                "cgroup_parent": self.cgroup.path(),
                "security_context": {"namespace_options": {"network": 2, "pid": 2, "ipc": 2}},
            },
        });
        let container = json!({
            "metadata": {"name": name},
            "image": {"image": reference},
            "command": arguments,
            "log_path": format!("{name}.log"),
            "linux": {"security_context": {"namespace_options": {"network": 2, "pid": 2, "ipc": 2}}},
        });
        let pod = self.scratch.write(&format!("{name}.pod.json"), &pod.to_string())?;
        let container = self.scratch.write(&format!("{name}.json"), &container.to_string())?;
        let id = run(self.crictl().args(["run", "--no-pull"]).arg(container).arg(&pod))?;
        let ended = || {
            let state: Value = serde_json::from_str(&run(self.crictl().args(["inspect", &id]))?)?;
            let status = &state["status"];
            Ok((status["state"] == "CONTAINER_EXITED").then(|| status["exitCode"].as_i64()))
        };
        let code = wait::until("the container's end", LIMIT, ended)?;
        let said = run(self.crictl().args(["logs", &id]))?;
        let pods = run(self.crictl().args(["pods", "-q", "--name", &name]))?;
        run(self.crictl().args(["rmp", "-f"]).args(pods.lines()))?;
        if code != Some(0) {
            bail!("{code:?}: {said}");
        }
        Ok(said)
    }

    /// Returns where images lie, as the kubelet is told, and how many bytes of the disk they take.
    ///
    /// # Errors
    /// The daemon does not say.
    pub fn images_on_disk(&self) -> Result<(PathBuf, u64)> {
        let said: Value = serde_json::from_str(&run(self.crictl().args(["imagefsinfo", "-o", "json"]))?)?;
        let disk = &said["status"]["imageFilesystems"][0];
        let at = disk["fsId"]["mountpoint"].as_str().with_context(|| said.to_string())?;
        let used = disk["usedBytes"]["value"].as_str().with_context(|| said.to_string())?;
        Ok((PathBuf::from(at), used.parse()?))
    }

    /// Returns the digests under which an image is known.
    ///
    /// # Errors
    /// There is no such image.
    pub fn digests(&self, reference: &str) -> Result<Vec<String>> {
        let told: Value = serde_json::from_str(&run(self.crictl().args(["inspecti", reference]))?)?;
        let digests = told["status"]["repoDigests"].as_array().with_context(|| told.to_string())?;
        Ok(digests.iter().filter_map(|digest| Some(digest.as_str()?.to_owned())).collect())
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        // Pods outlive their daemon.
        let pods = run(self.crictl().args(["pods", "-q"])).unwrap_or_default();
        if !pods.is_empty() {
            let _gone = run(self.crictl().args(["rmp", "-f"]).args(pods.lines()));
        }
    }
}

fn crictl(socket: &Path) -> Command {
    let mut command = Command::new(workspace("target/deploy-tools/crictl"));
    let socket = format!("unix://{}", socket.display());
    // No file of the machine's own is read.
    command.args([
        "--config",
        "/dev/null",
        "--timeout",
        "120s",
        "--runtime-endpoint",
        &socket,
        "--image-endpoint",
        &socket,
    ]);
    command
}
