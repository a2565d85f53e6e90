//! The production database: Debian's PostgreSQL.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{Authority, Proc, Scratch, is_root, run, wait};

/// The superuser of the server, and its password.
const USER: (&str, &str) = ("firstlight", "not-so-secret");
/// How long the server may take to end after it was told to.
const END: Duration = Duration::from_secs(30);

/// A running PostgreSQL server with a password, on a free loopback port and in a temporary folder; both go when it is dropped.
///
/// Nothing is synced to disk, and text is sorted by a language's rules that ignore punctuation: what relies on the order of
/// bytes shows. PostgreSQL refuses to run as root, so root's tests run it as the user `postgres`.
#[derive(Debug)]
pub struct Postgres {
    server: Option<Server>,
    port: u16,
    programs: PathBuf,
    databases: AtomicU32,
    scratch: Scratch,
}

/// The process, and the thread that started it: a [`Proc`] ends with its thread, which here outlives the test's.
#[derive(Debug)]
struct Server {
    proc: Proc,
    _keeper: mpsc::Sender<()>,
}

impl Postgres {
    /// Makes an empty server and starts it.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or did not start.
    pub fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// Makes an empty server that speaks TLS, with a certificate of `authority` for 127.0.0.1, and starts it.
    ///
    /// # Errors
    /// As [`Postgres::start`], and those of `openssl`.
    pub fn start_tls(authority: &Authority) -> Result<Self> {
        Self::start_with(Some(authority.sign("postgres", Ipv4Addr::LOCALHOST)?))
    }

    fn start_with(tls: Option<(PathBuf, PathBuf)>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let programs = programs()?;
        let folder = scratch.folder("data")?;
        let password = scratch.write("password", USER.1)?;
        std::fs::set_permissions(scratch.path(), Permissions::from_mode(0o755))?;
        for path in [scratch.path(), &folder, &password] {
            hand_over(path)?;
        }
        let mut init = as_postgres(&programs.join("initdb"));
        init.arg("--no-sync").arg("--pwfile").arg(&password).arg("--pgdata").arg(&folder);
        init.args(["--username", USER.0, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]);
        // An unknown language with the root rules, but for punctuation.
        init.args(["--locale-provider=icu", "--icu-locale=und-u-ka-shifted"]);
        run(init.current_dir(scratch.path()))?;
        for (from, name) in tls.iter().flat_map(|(certificate, key)| [(certificate, "server.crt"), (key, "server.key")])
        {
            let file = folder.join(name);
            std::fs::copy(from, &file)?;
            // A key that others may read is refused.
            std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
            hand_over(&file)?;
        }
        let mut postgres =
            Self { server: None, port: wait::free_port(), programs, databases: AtomicU32::new(0), scratch };
        postgres.launch()?;
        Ok(postgres)
    }

    /// Returns the server that the tests of this process share; it runs as long as one of them holds it.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(postgres) = shared.upgrade() {
            return Ok(postgres);
        }
        let postgres = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&postgres);
        Ok(postgres)
    }

    /// Makes an empty database and returns its URL, with the password.
    ///
    /// # Errors
    /// The server refused.
    pub fn database(&self) -> Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(&name))
    }

    /// Runs statements in a database (a name, or a URL of [`Postgres::database`]) and returns the rows, a line each.
    ///
    /// # Errors
    /// The server refused.
    pub fn sql(&self, database: &str, statements: &str) -> Result<String> {
        let name = database.rsplit('/').next().unwrap_or_default();
        sql(&self.url(name), statements)
    }

    /// Returns the address it listens on.
    pub fn at(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://{}:{}@{}/{database}", USER.0, USER.1, self.at())
    }

    /// Stops the server as an administrator does who does not wait for clients: their connections are cut.
    ///
    /// # Errors
    /// It did not end.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        // "Fast": SIGTERM would wait until every client has left.
        server.proc.signal(Signal::INT)?;
        wait::until("end of PostgreSQL", END, || server.proc.ended())?;
        Ok(())
    }

    /// Starts the stopped server again, with its data and on its port.
    ///
    /// # Errors
    /// It runs already, or did not start.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the server runs");
        let (data, log) = (self.scratch.join("data"), self.scratch.join("postgres.log"));
        let mut command = as_postgres(&self.programs.join("postgres"));
        command.arg("-D").arg(&data).current_dir(self.scratch.path());
        for setting in [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".into(),
            "unix_socket_directories=".into(),
            "fsync=off".into(),
            "full_page_writes=off".into(),
            "max_connections=200".into(),
            format!("ssl={}", data.join("server.crt").try_exists()?),
        ] {
            command.arg("-c").arg(setting);
        }
        let mut server = Server::start(command, &log)?;
        let ready = self.programs.join("pg_isready");
        let at = self.at();
        server.proc.ready(|| {
            let mut ready = Command::new(&ready);
            ready.args(["--quiet", "--host", &at.ip().to_string(), "--port", &at.port().to_string()]);
            ready.status().is_ok_and(|status| status.success())
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// Stops the server and starts it again.
    ///
    /// # Errors
    /// As [`Postgres::stop`] and [`Postgres::launch`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // What cannot be stopped gently is killed with its `Proc`.
        let _ = self.stop();
    }
}

/// Runs statements in the database of a URL and returns the rows, a line each, their columns separated by `|`.
pub(crate) fn sql(url: &str, statements: &str) -> Result<String> {
    let mut psql = Command::new(programs()?.join("psql"));
    psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
    run(psql.args(["--dbname", url, "--command", statements]).current_dir("/"))
}

impl Server {
    fn start(command: Command, log: &Path) -> Result<Self> {
        let (keeper, dropped) = mpsc::channel::<()>();
        let (started, proc) = mpsc::sync_channel(1);
        let log = log.to_owned();
        std::thread::spawn(move || {
            let _ = started.send(Proc::start(&command, &log));
            // Ends with an error when the server is dropped.
            let _ = dropped.recv();
        });
        let proc = proc.recv().context("the thread that starts PostgreSQL")??;
        Ok(Self { proc, _keeper: keeper })
    }
}

/// Returns the folder of PostgreSQL's programs, of the newest version there is: Debian keeps them out of `PATH`.
fn programs() -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed: run tests/setup.sh")? {
        let entry = entry?;
        let version: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let programs = entry.path().join("bin");
        if let Some(version) = version
            && programs.join("initdb").try_exists()?
        {
            found.push((version, programs));
        }
    }
    found.sort();
    Ok(found.pop().context("no server in /usr/lib/postgresql: run tests/setup.sh")?.1)
}

/// Gives a file or folder to the user that the server runs as.
fn hand_over(path: &Path) -> Result<()> {
    if is_root() {
        let id = |flag| -> Result<u32> { Ok(run(Command::new("id").args([flag, "postgres"]))?.parse()?) };
        chown(path, Some(id("-u")?), Some(id("-g")?))?;
    }
    Ok(())
}

fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    // A change of user forgets the signal that `Proc` asked for, so it is asked for again.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=TERM", "--"]).arg(program);
    command
}
