//! The binary under test, as a process.

use super::client::{Call, Client};
use super::message::Message;
use super::metrics::Metrics;
use super::wait::{DEADLINE, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_northgate");

/// A gateway that runs as long as the value, on a loopback address of its own.
///
/// Its configuration may use `$address` (the loopback address), `$dir` (its temporary folder), and whatever
/// [`GatewayBuilder::with`] names. `version`, the admin socket and a listener `public` on port 8080 need not be written.
pub struct Gateway {
    child: Child,
    text: Template,
    stdout: Captured,
    stderr: Captured,
}

/// Pieces that a [`Gateway`] is started from.
pub struct GatewayBuilder {
    text: Template,
    yaml: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Gateway {
    pub fn builder(yaml: &str) -> GatewayBuilder {
        let address = super::loopback();
        let dir = TempDir::new().expect("a temporary folder");
        let mut text = Template {
            address,
            dir,
            values: Vec::new(),
        };
        text.set("address", address);
        text.set("dir", text.dir.path().display().to_string());
        GatewayBuilder {
            text,
            yaml: yaml.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// A gateway with this configuration and nothing to fill in.
    pub async fn start(yaml: &str) -> Self {
        Self::builder(yaml).start().await
    }

    /// A gateway in which `$app` is this endpoint.
    pub async fn before(app: &impl Display, yaml: &str) -> Self {
        Self::builder(yaml).with("app", app).start().await
    }

    /// The listener `public`.
    pub fn public(&self) -> SocketAddr {
        self.port(8080)
    }

    pub fn port(&self, port: u16) -> SocketAddr {
        (self.text.address, port).into()
    }

    pub fn dir(&self) -> &Path {
        self.text.dir.path()
    }

    pub fn config(&self) -> PathBuf {
        self.text.config()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A request on a connection of its own to the listener `public`; `line` is `GET /path`.
    pub fn call(&self, line: &str) -> Call {
        Call::new(self.public(), line)
    }

    pub async fn get(&self, target: &str) -> Message {
        self.call(&format!("GET {target}")).send().await
    }

    /// A connection to the listener `public`.
    pub async fn client(&self) -> Client {
        Client::connect(self.public()).await
    }

    /// A request to the admin socket.
    pub fn admin(&self, line: &str) -> Call {
        Call::unix(&self.text.admin(), line).host("localhost")
    }

    pub async fn metrics(&self) -> Metrics {
        let response = self.admin("GET /metrics").send().await;
        assert_eq!(response.status(), 200, "{response:?}");
        Metrics::new(response.text())
    }

    /// Waits for a metric to have at least this value: records are written after the response has gone out.
    pub async fn counts(&self, name: &str, labels: &[(&str, &str)], wanted: f64) -> Metrics {
        let what = format!("{name}{labels:?} to be {wanted}");
        eventually(&what, async || {
            let metrics = self.metrics().await;
            (metrics.value(name, labels) >= wanted).then_some(metrics)
        })
        .await
    }

    /// `/v1/status`.
    pub async fn status(&self) -> Value {
        let response = self.admin("GET /v1/status").send().await;
        assert_eq!(response.status(), 200, "{response:?}");
        response.json()
    }

    /// The configuration generation that new requests get.
    pub async fn generation(&self) -> f64 {
        self.metrics()
            .await
            .value("northgate_config_generation", &[])
    }

    /// Names a value for configurations written from now on.
    pub fn set(&mut self, name: &str, value: impl Display) {
        self.text.set(name, value);
    }

    /// Writes the configuration file in place, without a reload.
    pub fn write_config(&self, yaml: &str) {
        std::fs::write(self.config(), self.text.configuration(yaml)).expect("a configuration file");
    }

    /// The text as [`Gateway::write_config`] would write it.
    pub fn configuration(&self, yaml: &str) -> String {
        self.text.configuration(yaml)
    }

    /// Writes the configuration and runs `northgate reload`.
    pub async fn reload(&self, yaml: &str) -> Output {
        self.write_config(yaml);
        self.command(&["reload"]).await
    }

    /// The same, and the reload must be accepted.
    pub async fn reload_to(&self, yaml: &str) {
        let output = self.reload(yaml).await;
        assert_eq!(output.code, Some(0), "{output:?}");
    }

    /// `northgate ARGUMENTS -c CONFIG`.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let config = self.config().display().to_string();
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-c", &config]).collect();
        northgate(&arguments).await
    }

    /// The same, with this text on its stdin.
    pub async fn command_given(&self, arguments: &[&str], input: &str) -> Output {
        let config = self.config().display().to_string();
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-c", &config]).collect();
        northgate_given(&arguments, input).await
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a running gateway");
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the gateway to end", async || {
            child.try_wait().expect("a child")
        })
        .await
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Waits until the error log says this.
    pub async fn logs(&self, needle: &str) {
        eventually(&format!("{needle:?} in the error log"), async || {
            self.stderr().contains(needle).then_some(())
        })
        .await;
    }

    async fn becomes_ready(&mut self) {
        let admin = self.text.admin();
        let (child, stderr) = (&mut self.child, &self.stderr);
        eventually("the gateway to be ready", async || {
            if let Some(status) = child.try_wait().expect("a child") {
                panic!("the gateway ended with {status}:\n{}", stderr.text());
            }
            let ready = Call::unix(&admin, "GET /readyz")
                .host("localhost")
                .try_send()
                .await;
            ready
                .is_ok_and(|response| response.status() == 200)
                .then_some(())
        })
        .await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let stderr = self.stderr.text();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the gateway's stderr:\n{stderr}");
        } else {
            assert!(
                !stderr.contains("panicked at"),
                "the gateway panicked:\n{stderr}"
            );
        }
    }
}

impl GatewayBuilder {
    /// Makes `$name` stand for the value.
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        self.text.set(name, value);
        self
    }

    /// Puts a file into the gateway's folder.
    pub fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.text.dir.path().join(name), text).expect("a file");
        self
    }

    /// Puts `NAME.pem` and `NAME.key` into the gateway's folder.
    pub fn identity(self, name: &str, identity: &super::Identity) -> Self {
        identity.write(self.text.dir.path(), name);
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn address(&self) -> Ipv4Addr {
        self.text.address
    }

    pub fn dir(&self) -> &Path {
        self.text.dir.path()
    }

    /// Starts the process and waits until `/readyz` says so.
    pub async fn start(self) -> Gateway {
        let mut gateway = self.spawn();
        gateway.becomes_ready().await;
        gateway
    }

    /// Starts the process, and waits for nothing.
    pub fn begin(self) -> Gateway {
        self.spawn()
    }

    /// Starts a process that is expected to end by itself, and waits for that.
    pub async fn fails(self) -> Output {
        let mut gateway = self.spawn();
        let status = gateway.ended().await;
        gateway.stderr.finish();
        Output {
            code: status.code(),
            stdout: gateway.stdout(),
            stderr: gateway.stderr(),
        }
    }

    fn spawn(self) -> Gateway {
        let config = self.text.config();
        std::fs::write(&config, self.text.configuration(&self.yaml)).expect("a configuration file");
        let mut command = command();
        command
            .arg("run")
            .arg("-c")
            .arg(&config)
            .args(&self.arguments);
        command
            .envs(self.environment)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command);
        Gateway {
            stdout: Captured::of(child.stdout.take().expect("piped")),
            stderr: Captured::of(child.stderr.take().expect("piped")),
            child,
            text: self.text,
        }
    }
}

/// Runs the binary with these arguments and waits for it to end.
pub async fn northgate(arguments: &[&str]) -> Output {
    northgate_given(arguments, "").await
}

/// The same, with this text on its stdin.
pub async fn northgate_given(arguments: &[&str], input: &str) -> Output {
    let mut command = command();
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut command);
    // a program that does not read it may have ended by now
    let _ = child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes());
    let stdout = Captured::of(child.stdout.take().expect("piped"));
    let stderr = Captured::of(child.stderr.take().expect("piped"));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if started.elapsed() > DEADLINE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{arguments:?} did not end:\n{}", stderr.text());
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    stdout.finish();
    stderr.finish();
    Output {
        code: status.code(),
        stdout: stdout.text(),
        stderr: stderr.text(),
    }
}

fn command() -> Command {
    let mut command = Command::new(BINARY);
    for name in [
        "NORTHGATE_CONFIG",
        "NOTIFY_SOCKET",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
    ] {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
    command
}

/// Starts a process that the kernel ends with this thread, so that an interrupted test run leaves none behind.
fn spawn(command: &mut Command) -> Child {
    use std::os::unix::process::CommandExt;
    // SAFETY: two system calls, without allocation or locks, between fork and exec
    unsafe {
        command.pre_exec(|| {
            // so that a file that may not grow is an error to whoever writes it, as on a full disk
            nix::sys::signal::signal(Signal::SIGXFSZ, nix::sys::signal::SigHandler::SigIgn)?;
            Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
        });
    }
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{BINARY}: {error}"))
}

/// What a child writes, read by a thread of its own so that the child never blocks.
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Captured {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let bytes = bytes.clone();
            move || {
                let mut part = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut part) {
                    bytes
                        .lock()
                        .expect("no panic")
                        .extend_from_slice(&part[..count]);
                }
            }
        });
        Self {
            bytes,
            reader: Mutex::new(Some(reader)),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no panic")).into_owned()
    }

    /// Waits for the end of the output of a child that has ended.
    fn finish(&self) {
        let reader = self.reader.lock().expect("no panic").take();
        reader
            .map(std::thread::JoinHandle::join)
            .transpose()
            .expect("a reader");
    }
}

/// A gateway's folder and the names that its configurations may use.
struct Template {
    address: Ipv4Addr,
    dir: TempDir,
    values: Vec<(String, String)>,
}

impl Template {
    fn config(&self) -> PathBuf {
        self.dir.path().join("northgate.yaml")
    }

    fn admin(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    fn set(&mut self, name: &str, value: impl Display) {
        let name = format!("${name}");
        self.values.retain(|(known, _)| *known != name);
        self.values.push((name, value.to_string()));
        // the longest first, so that `$app` does not eat the start of `$apple`
        self.values
            .sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    /// The text with its names filled in, and with what nearly every configuration has.
    fn configuration(&self, yaml: &str) -> String {
        let has = |key: &str| yaml.lines().any(|line| line.starts_with(key));
        let mut text = String::new();
        if !has("version:") {
            text.push_str("version: 1\n");
        }
        if !has("admin:") {
            text.push_str("admin: {address: \"unix:$dir/admin.sock\"}\n");
        }
        if !has("listeners:") {
            text.push_str("listeners: {public: {address: \"$address:8080\"}}\n");
        }
        text.push_str(yaml);
        for (name, value) in &self.values {
            text = text.replace(name, value);
        }
        text
    }
}
