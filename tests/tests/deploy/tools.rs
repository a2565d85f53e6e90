//! The programs that `tests/setup.sh` builds into `target/deploy-tools`.

use std::path::Path;
use std::process::Command;

use e2e::{run, workspace};
use serde_json::Value;

/// Returns a command of one of the programs: `helm`, `kubeschema` or `compose`.
pub(crate) fn tool(name: &str) -> Command {
    Command::new(workspace("target/deploy-tools").join(name))
}

/// Returns helm, which keeps what it wants to keep in `home`.
pub(crate) fn helm(home: &Path) -> Command {
    let mut command = tool("helm");
    command.env("HOME", home);
    for name in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "KUBECONFIG"] {
        command.env_remove(name);
    }
    command
}

/// Runs the program under test and returns the configuration that is in force, with the variables `env` and no others.
///
/// # Errors
/// The program does not accept it; the error carries what it says.
pub(crate) fn config_check(arguments: &[String], env: &[(String, String)]) -> anyhow::Result<Value> {
    let mut command = Command::new(e2e::program()?);
    command.args(arguments).args(["config", "check", "--output", "json"]);
    command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    Ok(serde_json::from_str(&run(&mut command)?)?)
}
