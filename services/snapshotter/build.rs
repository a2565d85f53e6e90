//! Generates containerd's messages and services from `api/proto`, without any program of protobuf's.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = "../../api/proto";
    println!("cargo::rerun-if-changed={folder}");
    let files =
        protox::compile(["snapshots.proto", "content.proto", "diff.proto", "images.proto", "leases.proto"], [folder])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    Ok(())
}
