//! Debian's redis-server, on a loopback address of its own, without persistence.

use super::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const PORT: u16 = 6379;

/// A server that runs as long as the value.
pub struct Redis {
    child: Option<Child>,
    address: Ipv4Addr,
    arguments: Vec<String>,
    dir: TempDir,
}

impl Redis {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further arguments.
    pub async fn with(arguments: &[&str]) -> Self {
        let mut redis = Self {
            child: None,
            address: super::loopback(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            dir: TempDir::new().expect("a temporary folder"),
        };
        redis.restart().await;
        redis
    }

    pub fn address(&self) -> SocketAddr {
        (self.address, PORT).into()
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Starts it again after [`Redis::kill`]: it has forgotten everything.
    pub async fn restart(&mut self) {
        let mut command = Command::new("redis-server");
        command
            .args([
                "--port",
                &PORT.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args([
                "--bind",
                &self.address.to_string(),
                "--protected-mode",
                "no",
            ])
            // the others of a cluster are told this address, and not that of the socket, which the kernel chooses
            .args(["--cluster-announce-ip", &self.address.to_string()])
            .args(["--bind-source-addr", &self.address.to_string()])
            .args(["--dir", &self.dir.path().display().to_string()])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: one system call, without allocation or locks, between fork and exec
        unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let child = command.spawn();
        self.child = Some(child.expect("redis-server; tests/run.sh installs what the tests need"));
        let address = self.address();
        eventually("redis-server to listen", async || {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets it stand still: its sockets are there, and nobody answers.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running server");
        let pid = i32::try_from(child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a running server");
    }

    /// Asks it as a client would.
    pub async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client
            .get_multiplexed_async_connection()
            .await
            .expect("a connection");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
            .query_async(&mut connection)
            .await
            .expect("an answer")
    }

    /// The names of all that it holds.
    pub async fn names(&self) -> Vec<String> {
        self.ask(&["KEYS", "*"]).await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

const OF_CLUSTER: [&str; 6] = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "2000",
    "--cluster-require-full-coverage",
    "no",
];

/// A server that knows what another one of a cluster knows, and takes its place.
pub async fn replica(of: &Redis) -> Redis {
    let replica = Redis::with(&OF_CLUSTER).await;
    let (host, port) = (of.address.to_string(), PORT.to_string());
    let () = replica.ask(&["CLUSTER", "MEET", &host, &port]).await;
    let id: String = of.ask(&["CLUSTER", "MYID"]).await;
    eventually("the others to be known", async || {
        let nodes: String = replica.ask(&["CLUSTER", "NODES"]).await;
        (nodes.contains(&id) && nodes.matches("master").count() == 4).then_some(())
    })
    .await;
    let () = replica.ask(&["CLUSTER", "REPLICATE", &id]).await;
    eventually("all to be known of it", async || {
        let info: String = replica.ask(&["INFO", "replication"]).await;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    replica
}

/// Three servers that share the slots of a cluster.
pub async fn cluster() -> Vec<Redis> {
    let mut servers = Vec::new();
    for (begin, end) in [(0, 5460), (5461, 10922), (10923, 16383)] {
        let redis = Redis::with(&OF_CLUSTER).await;
        let (begin, end) = (begin.to_string(), end.to_string());
        let () = redis.ask(&["CLUSTER", "ADDSLOTSRANGE", &begin, &end]).await;
        servers.push(redis);
    }
    for server in &servers[1..] {
        let (host, port) = (server.address.to_string(), PORT.to_string());
        let () = servers[0].ask(&["CLUSTER", "MEET", &host, &port]).await;
    }
    eventually("the cluster to be whole", async || {
        for server in &servers {
            let info: String = server.ask(&["CLUSTER", "INFO"]).await;
            let nodes: String = server.ask(&["CLUSTER", "NODES"]).await;
            let whole = info.contains("cluster_state:ok")
                && info.contains("cluster_slots_assigned:16384")
                && nodes.lines().count() == 3;
            if !whole {
                return None;
            }
        }
        Some(())
    })
    .await;
    servers
}
