//! What must not end and does is started again, and seen. Panics have no way in from outside: they are tried beside the
//! code (`supervisor`, `edge`, `admin`, `tasks`). What fails for want of descriptors has one.

use crate::harness::{Call, Gateway, eventually};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::process::Command;

/// `more` is at a port of its own in each attempt.
const GATEWAY: &str = r#"
listeners: {public: {address: "$address:8080"}, more: {address: "$address:$port"}}
routes: {all: {match: {path: /**}, respond: 204}}
"#;

fn limit_descriptors(gateway: &Gateway, soft: usize) {
    let limit = Command::new("prlimit")
        .args(["--pid", &gateway.pid().to_string()])
        .arg(format!("--nofile={soft}:"))
        .status();
    assert!(limit.expect("prlimit").success());
}

/// Leaves the gateway a single descriptor, which is the lowest one that is free.
fn leave_one_descriptor(gateway: &Gateway) {
    let folder = format!("/proc/{}/fd", gateway.pid());
    let used: BTreeSet<usize> = std::fs::read_dir(folder)
        .expect("a running gateway")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let mut free = (0..).filter(|number| !used.contains(number));
    let second = free.nth(1).expect("a number");
    limit_descriptors(gateway, second);
}

/// How many reloads have come to an end.
fn reloads(gateway: &Gateway) -> usize {
    let said = gateway.stderr();
    said.matches("the configuration was re").count()
}

/// Adds a socket that nothing is left to accept on with, and tells its port. What else the gateway opens meanwhile may
/// come in between: then it is another one.
async fn unwatched(gateway: &mut Gateway) -> u16 {
    for port in 8100..8200 {
        limit_descriptors(gateway, 1024);
        gateway.set("port", port);
        gateway.write_config(GATEWAY);
        let before = reloads(gateway);
        leave_one_descriptor(gateway);
        gateway.signal(Signal::SIGHUP);
        eventually("a reload", async || {
            (reloads(gateway) > before).then_some(())
        })
        .await;
        // a loop that has all it needs says nothing: another reload is later than one that has not
        let said = gateway.stderr();
        let failed = |port: &u16| said.contains(&format!("accepting on {}", gateway.port(*port)));
        if let Some(port) = (8100..=port).find(failed) {
            return port;
        }
    }
    panic!("every socket could be accepted on:\n{}", gateway.stderr());
}

#[tokio::test]
async fn a_socket_that_can_not_be_accepted_on_is_tried_again_and_seen() {
    let mut gateway = Gateway::builder(GATEWAY).with("port", 8099).start().await;
    assert_eq!(gateway.get("/").await.status(), 204);
    let port = unwatched(&mut gateway).await;
    limit_descriptors(&gateway, 1024);
    let failed = format!("accepting on {}", gateway.port(port));
    let labels = [("task", &*failed)];
    gateway
        .counts("northgate_task_restarts_total", &labels, 1.0)
        .await;
    // the last one of the attempts is still wanted, whether it is this one or not
    gateway.set("port", port);
    gateway.reload_to(GATEWAY).await;
    let answer = Call::new(gateway.port(port), "GET /").send().await;
    assert_eq!(answer.status(), 204);
    let status = gateway.status().await;
    let restarted = status["restarted"].as_array().expect("a list");
    let restarted = restarted.iter().find(|one| one["task"] == failed.as_str());
    let reason = restarted.and_then(|one| one["reason"].as_str());
    let reason = reason.expect("a reason");
    assert!(
        reason.starts_with("its socket can't be watched"),
        "{reason}"
    );
    let said = gateway.command(&["status"]).await.stdout;
    assert!(
        said.contains(&format!("restarted   {failed}: started again")),
        "{said}"
    );
    // everything else went on
    assert_eq!(gateway.get("/").await.status(), 204);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("northgate_panics_total", &[]), 0.0);
}
