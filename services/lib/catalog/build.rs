//! Rebuilds the crate when a migration is added: the macros that embed them cannot see new files.

fn main() {
    println!("cargo::rerun-if-changed=../../../migrations");
}
