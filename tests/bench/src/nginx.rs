//! [`Nginx`]: the peer in serving files.

use std::fmt::Write;
use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::Result;
use e2e::{Node, Proc, Scratch, wait, web};

use crate::layout::{Layer, Layout};
use crate::upstream::blob;

/// An nginx that serves the files of layers at the paths where a proxy has them; ended when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    _proc: Proc,
    at: SocketAddrV4,
    _scratch: Scratch,
}

impl Nginx {
    /// Starts it, with a worker for each core.
    ///
    /// # Errors
    /// It did not start, or does not serve one of the layers.
    pub(crate) fn start(image: &Layout, layers: &[&Layer]) -> Result<Self> {
        let (scratch, at) = (Scratch::new()?, SocketAddrV4::new([127, 0, 0, 1].into(), wait::free_port()));
        let config = scratch.write("nginx.conf", &config(image, layers, &scratch, at)?)?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(config).arg("-p").arg(scratch.path());
        let mut proc = Proc::start(&command, &scratch.join("nginx.log"))?;
        let has = |layer: &Layer| {
            let answer = web::request(&Node::Machine, at, "HEAD", &blob(image, layer), &[]);
            answer.is_ok_and(|answer| answer.status.is_success())
        };
        proc.ready(|| layers.iter().all(|layer| has(layer)))?;
        Ok(Self { _proc: proc, at, _scratch: scratch })
    }

    /// Returns its address.
    pub(crate) fn at(&self) -> SocketAddrV4 {
        self.at
    }
}

fn config(image: &Layout, layers: &[&Layer], scratch: &Scratch, at: SocketAddrV4) -> Result<String> {
    let dir = scratch.path().display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
        .join(" ");
    let mut locations = String::new();
    for layer in layers {
        let file = image.blob(&layer.digest)?;
        let _ = write!(locations, "location = {} {{ alias {}; }} ", blob(image, layer), file.display());
    }
    Ok(format!(
        "daemon off; user root; worker_processes auto; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 100000000; {temporary}\n\
         server {{ listen {at}; {locations}}} }}\n",
    ))
}
