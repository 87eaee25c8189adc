//! Servers and clients of other makes: in Python with the packages of the system, and in JavaScript.

use super::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

/// The system's own, since that is the one its packages are for.
const PYTHON: &str = "/usr/bin/python3";

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that runs as long as the value.
pub struct Program {
    child: Child,
    lines: UnboundedReceiver<String>,
}

impl Program {
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        Self::run(PYTHON, name, arguments)
    }

    /// One that runs in Node.js.
    pub fn node(name: &str, arguments: &[&str]) -> Self {
        Self::run("node", name, arguments)
    }

    fn run(interpreter: &str, name: &str, arguments: &[&str]) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let script = script.join(name).display().to_string();
        let arguments: Vec<&str> = [&*script].iter().chain(arguments).copied().collect();
        Self::command(interpreter, &arguments)
    }

    /// Any other program, some of which live where only administrators look.
    pub fn command(program: &str, arguments: &[&str]) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new(program)
            .args(arguments)
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program}: {error}; tests/run.sh installs what the tests need")
            });
        let stdout = child.stdout.take().expect("a pipe");
        let (send, lines) = unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, lines }
    }

    /// A server that prints the port that it was given.
    pub async fn server(name: &str, arguments: &[&str]) -> (Self, SocketAddr) {
        Self::server_of(PYTHON, name, arguments).await
    }

    /// One that runs in Node.js.
    pub async fn node_server(name: &str, arguments: &[&str]) -> (Self, SocketAddr) {
        Self::server_of("node", name, arguments).await
    }

    async fn server_of(interpreter: &str, name: &str, arguments: &[&str]) -> (Self, SocketAddr) {
        let host = super::loopback();
        let text = host.to_string();
        let arguments: Vec<&str> = [text.as_str()].iter().chain(arguments).copied().collect();
        let mut server = Self::run(interpreter, name, &arguments);
        let port = server.line().await.parse().expect("a port");
        (server, (host, port).into())
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a running program");
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.recv()).await;
        let line = line.expect("a line in time");
        line.expect("a line; tests/run.sh installs what the programs need")
    }

    /// Waits for its last line to be the one that says that all went well.
    pub async fn succeeds(mut self) {
        let mut last = String::new();
        while let Some(line) = timeout(PATIENCE, self.lines.recv())
            .await
            .expect("an end in time")
        {
            last = line;
        }
        let status = eventually("the program to end", async || {
            self.child.try_wait().expect("a child")
        })
        .await;
        assert!(status.success() && last == "ok", "{status}: {last}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program that has to end well.
pub async fn run(name: &str, arguments: &[&str]) {
    Program::start(name, arguments).succeeds().await;
}
