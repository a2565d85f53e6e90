//! Generates containerd's messages and its service from `api/proto`, without any program of protobuf's.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = "../../api/proto";
    println!("cargo::rerun-if-changed={folder}");
    let files = protox::compile(["snapshots.proto"], [folder])?;
    tonic_prost_build::configure().build_client(false).build_transport(false).compile_fds(files)?;
    Ok(())
}
