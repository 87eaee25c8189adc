//! The router behind Pingora's sockets.

use super::answer::{Code, problem};
use super::{Access, Control, guard, router};
use crate::supervisor::{Pauses, Supervisor};
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use pingora_core::apps::http_app::{HttpServer, ServeHttp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::listening::Service;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

/// No request of this API needs more.
const BODY_BYTES_MAX: usize = 64 << 10;
/// How long a client may send, or take, nothing.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The owner and the group of the process: who may reload is decided by membership.
const SOCKET_MODE: u32 = 0o660;

/// A service for `pingora_core::server::Server::add_service`. Pingora's own, which can be started once, is made anew
/// where it ends.
pub struct AdminService {
    make: Box<dyn Fn() -> Service<HttpServer<Admin>> + Send + Sync>,
    task: String,
    supervisor: Arc<Supervisor>,
}

#[async_trait]
impl pingora_core::services::Service for AdminService {
    async fn start_service(
        &mut self,
        _: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners: usize,
    ) {
        let work = || async {
            let mut service = (self.make)();
            // it binds by itself: what is in that table may be closed by then
            service
                .start_service(None, shutdown.clone(), listeners)
                .await;
            match *shutdown.borrow() {
                true => Ok(()),
                false => Err("it ended".to_owned()),
            }
        };
        self.supervisor.keep(&self.task, Pauses::USUAL, work).await;
    }

    fn name(&self) -> &str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// Why the admin API can't listen there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    #[error("the admin API has no authentication and listens on loopback only, not on {0}")]
    NotLoopback(SocketAddr),
    #[error("the path of the admin socket is not UTF-8: {}", .0.display())]
    NotUtf8(PathBuf),
}

/// The API on a Unix socket, with everything it can do. [`super::socket::prepare_socket`] comes first.
///
/// # Errors
/// If the path is not UTF-8, which Pingora wants.
pub fn service_on_socket(
    control: Arc<dyn Control>,
    path: &Path,
) -> Result<AdminService, ListenError> {
    let text = path
        .to_str()
        .ok_or_else(|| ListenError::NotUtf8(path.to_owned()))?
        .to_owned();
    Ok(kept(control, Access::Full, &text.clone(), move |service| {
        service.add_uds(&text, Some(Permissions::from_mode(SOCKET_MODE)));
    }))
}

/// The API on TCP, read-only.
///
/// # Errors
/// If the address is not a loopback address.
pub fn service_on_loopback(
    control: Arc<dyn Control>,
    address: SocketAddr,
) -> Result<AdminService, ListenError> {
    if !address.ip().to_canonical().is_loopback() {
        return Err(ListenError::NotLoopback(address));
    }
    let text = address.to_string();
    Ok(kept(
        control,
        Access::ReadOnly,
        &text.clone(),
        move |service| service.add_tcp(&text),
    ))
}

/// The API at one place, which `listen` adds.
fn kept(
    control: Arc<dyn Control>,
    access: Access,
    place: &str,
    listen: impl Fn(&mut Service<HttpServer<Admin>>) + Send + Sync + 'static,
) -> AdminService {
    let supervisor = control.supervisor().clone();
    let admin = Admin {
        router: router::router(control),
        access,
        supervisor: supervisor.clone(),
    };
    AdminService {
        make: Box::new(move || {
            let app = HttpServer::new_app(admin.clone());
            let mut service = Service::new("admin".into(), app);
            listen(&mut service);
            service
        }),
        task: format!("the admin API on {place}"),
        supervisor,
    }
}

/// The API as Pingora calls it.
#[derive(Clone)]
pub struct Admin {
    router: Router,
    access: Access,
    supervisor: Arc<Supervisor>,
}

impl Admin {
    async fn answer(&self, session: &mut ServerSession) -> Response<Bytes> {
        session.set_read_timeout(Some(TIMEOUT));
        session.set_write_timeout(Some(TIMEOUT));
        let (mut parts, ()) = Request::new(()).into_parts();
        let head = session.req_header();
        parts.method = head.method.clone();
        parts.uri = head.uri.clone();
        parts.headers = head.headers.clone();
        if let Err((code, detail)) = guard::check(&parts, self.access) {
            return problem(code, Some(detail));
        }
        let body = match read_body(session).await {
            Ok(body) => body,
            Err(code) => return problem(code, None),
        };
        self.routed(Request::from_parts(parts, Body::from(body)))
            .await
    }

    async fn routed(&self, request: Request<Body>) -> Response<Bytes> {
        // a router can't fail; its error type has no values
        let (parts, body) = match self.router.clone().oneshot(request).await {
            Ok(response) => response.into_parts(),
            Err(never) => match never {},
        };
        match axum::body::to_bytes(body, usize::MAX).await {
            Ok(body) => Response::from_parts(parts, body),
            Err(error) => {
                tracing::error!("an answer of the admin API was not whole: {error}");
                problem(Code::Internal, None)
            }
        }
    }
}

async fn read_body(session: &mut ServerSession) -> Result<Bytes, Code> {
    let mut body = BytesMut::new();
    while let Some(part) = session
        .read_request_body()
        .await
        .map_err(|_| Code::BadRequest)?
    {
        if body.len() + part.len() > BODY_BYTES_MAX {
            return Err(Code::TooLarge);
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head_only = session.req_header().method == Method::HEAD;
        let answer = self.answer(session);
        let defect = |_: &str| problem(Code::Internal, None);
        let answer = self.supervisor.or_else(answer, defect).await;
        let (mut parts, body) = answer.into_parts();
        // the router has taken the body of an answer to HEAD away, and left its length
        if !(head_only && parts.headers.contains_key(CONTENT_LENGTH)) {
            parts
                .headers
                .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let body = if head_only { Vec::new() } else { body.into() };
        Response::from_parts(parts, body)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;
    use pingora_core::services::Service as _;
    use serde_json::{Value, json};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// The API of a fake process, on a real socket.
    struct Api {
        fake: Arc<Fake>,
        socket: PathBuf,
        stop: tokio::sync::watch::Sender<bool>,
        _runtime: tokio::runtime::Runtime,
        _folder: tempfile::TempDir,
    }

    impl Api {
        fn start(access: Access) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("admin.sock");
            let fake = Arc::new(Fake::default());
            let text = socket.to_str().unwrap().to_owned();
            let mut service = kept(fake.clone(), access, "here", move |service| {
                service.add_uds(&text, Some(Permissions::from_mode(SOCKET_MODE)));
            });
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let (stop, stopped) = tokio::sync::watch::channel(false);
            runtime.spawn(async move { service.start_service(None, stopped, 1).await });
            let api = Self {
                fake,
                socket,
                stop,
                _runtime: runtime,
                _folder: folder,
            };
            api.connect();
            api
        }

        fn connect(&self) -> UnixStream {
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            loop {
                match UnixStream::connect(&self.socket) {
                    Ok(stream) => return stream,
                    Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
                }
                std::thread::yield_now();
            }
        }

        /// The answer to a whole connection, as sent.
        fn raw(&self, requests: &str) -> String {
            let mut stream = self.connect();
            stream.write_all(requests.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        }

        fn ask(&self, method: &str, path: &str) -> (u16, String, String) {
            self.ask_with(method, path, "Host: localhost\r\n")
        }

        fn ask_with(&self, method: &str, path: &str, headers: &str) -> (u16, String, String) {
            let answer = self.raw(&format!(
                "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"
            ));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            (status, head.to_ascii_lowercase(), body.to_owned())
        }

        fn json(&self, method: &str, path: &str) -> (u16, Value) {
            let (status, head, body) = self.ask(method, path);
            assert!(
                head.contains(&format!("content-length: {}", body.len())),
                "{head}"
            );
            (status, serde_json::from_str(&body).unwrap())
        }
    }

    impl Drop for Api {
        fn drop(&mut self) {
            let _ = self.stop.send(true);
        }
    }

    #[test]
    fn health_metrics_and_status_are_answered() {
        let api = Api::start(Access::Full);
        assert_eq!(api.json("GET", "/livez"), (200, json!({"status": "live"})));
        assert_eq!(
            api.json("GET", "/readyz"),
            (200, json!({"status": "ready"}))
        );
        let (status, head, body) = api.ask("GET", "/metrics");
        assert_eq!((status, body.as_str()), (200, "northgate_panics_total 0\n"));
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        assert_eq!(api.json("GET", "/v1/status").1["generation"], 7);
        assert_eq!(api.json("GET", "/v1/config").1, json!({"version": 1}));
        assert_eq!(api.json("GET", "/v1/routes").1, json!([]));
        assert_eq!(
            api.json("GET", "/v1/services/orders").1["endpoints"][0]["in_flight"],
            2
        );
    }

    #[test]
    fn limits_are_shown_to_all_and_reset_over_the_socket_alone() {
        let api = Api::start(Access::Full);
        assert_eq!(api.json("GET", "/v1/limits?key=a").1, json!([]));
        let status = |method, path| api.ask(method, path).0;
        assert_eq!(status("GET", "/v1/limits?keys=a"), 400);
        assert_eq!(status("GET", "/v1/limits/route.a/b/rate_limit"), 200);
        assert_eq!(
            status("DELETE", "/v1/limits/route.a/b/rate_limit?key=a"),
            200
        );
        assert_eq!(status("DELETE", "/v1/limits/x?key=a%2Cb%20c"), 409);
        assert_eq!(status("GET", "/v1/limits/top/rate_limit"), 400);
        assert_eq!(status("GET", "/v1/limits/none"), 404);
        assert_eq!(status("POST", "/v1/limits/top/rate_limit"), 405);
        let api = Api::start(Access::ReadOnly);
        let refused = api.json("DELETE", "/v1/limits/route.a/b/rate_limit?key=a");
        assert_eq!(
            (refused.0, &refused.1["code"]),
            (403, &json!("admin.read_only"))
        );
        assert_eq!(api.ask("GET", "/v1/limits").0, 200);
    }

    #[test]
    fn quotas_are_shown_to_all_and_granted_over_the_socket_alone() {
        let api = Api::start(Access::Full);
        let granted = api.json("POST", "/v1/quotas/route.a/b/rate_limit?key=a&grant=7");
        assert_eq!((granted.0, &granted.1["keys"]), (200, &json!(7)));
        let status = |method, path| api.ask(method, path).0;
        for path in [
            "/v1/quotas/route.a/b/rate_limit",
            "/v1/quotas/route.a/b/rate_limit?key=a",
            "/v1/quotas/route.a/b/rate_limit?key=a&grant=-1",
            "/v1/quotas/route.a/b/rate_limit?key=a&grant=much",
        ] {
            assert_eq!(status("POST", path), 400, "{path}");
        }
        assert_eq!(status("POST", "/v1/quotas/none?key=a&grant=1"), 404);
        assert_eq!(
            status("GET", "/v1/quotas/route.a/b/rate_limit?grant=1"),
            400
        );
        assert_eq!(
            status("DELETE", "/v1/quotas/route.a/b/rate_limit?key=a"),
            200
        );
        let api = Api::start(Access::ReadOnly);
        assert_eq!(
            api.ask("POST", "/v1/quotas/route.a/b/rate_limit?key=a&grant=7")
                .0,
            403
        );
        assert_eq!(api.ask("GET", "/v1/quotas").0, 200);
    }

    #[test]
    fn a_gateway_that_is_not_ready_says_why() {
        let api = Api::start(Access::Full);
        api.fake.not_ready.lock().push("draining".into());
        let expected = json!({"status": "not ready", "reasons": ["draining"]});
        assert_eq!(api.json("GET", "/readyz"), (503, expected));
    }

    #[test]
    fn a_reload_reports_what_serves_or_what_is_wrong() {
        let api = Api::start(Access::Full);
        assert_eq!(api.json("POST", "/v1/reload").1["generation"], 8);
        *api.fake.broken.lock() = true;
        let (status, refused) = api.json("POST", "/v1/reload");
        assert_eq!((status, &refused["code"]), (422, &json!("config.refused")));
        assert_eq!(
            (&refused["diagnostics"], &refused["text"]),
            (&json!([{"line": 3}]), &json!("error: x"))
        );
    }

    #[test]
    fn a_panic_is_answered_and_counted_and_the_api_goes_on() {
        let api = Api::start(Access::Full);
        let (status, problem) = api.json("GET", "/v1/limits/defect");
        assert_eq!((status, &problem["code"]), (500, &json!("admin.internal")));
        assert_eq!(api.fake.supervisor.panics(), 1);
        assert_eq!(api.ask("GET", "/livez").0, 200);
    }

    #[test]
    fn a_socket_that_can_t_be_had_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later").join("admin.sock");
        let fake: Arc<Fake> = Arc::default();
        let mut service = service_on_socket(fake.clone(), &path).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        runtime.spawn(async move { service.start_service(None, stopped, 1).await });
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let until = |holds: &dyn Fn() -> bool| {
            while !holds() {
                assert!(std::time::Instant::now() < deadline);
                std::thread::yield_now();
            }
        };
        until(&|| !fake.supervisor.restarts().is_empty());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        until(&|| UnixStream::connect(&path).is_ok());
        let restarts = fake.supervisor.restarts();
        assert_eq!(
            *restarts[0].0,
            *format!("the admin API on {}", path.display())
        );
    }

    #[test]
    fn what_is_not_there_is_a_problem() {
        let api = Api::start(Access::Full);
        for path in [
            "/",
            "/v1",
            "/v1/services/none",
            "/v1/services/%ff",
            "/v1/status/",
        ] {
            let (status, problem) = api.json("GET", path);
            assert_eq!(
                (status, &problem["code"]),
                (404, &json!("admin.not_found")),
                "{path}"
            );
        }
        let (status, head, body) = api.ask("DELETE", "/v1/status");
        assert_eq!(status, 405);
        assert!(
            head.contains("allow: get,head") && body.contains("admin.method"),
            "{head}"
        );
        assert_eq!(api.ask("GET", "/v1/reload").0, 405);
    }

    #[test]
    fn head_has_the_length_and_no_body_and_the_connection_goes_on() {
        let api = Api::start(Access::Full);
        let mut stream = api.connect();
        stream
            .write_all(b"HEAD /v1/config HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.contains("content-length: 14\r\n"), "{head}");
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut next = String::new();
        stream.read_to_string(&mut next).unwrap();
        assert!(next.starts_with("HTTP/1.1 200"), "{next}");
    }

    #[test]
    fn a_foreign_host_and_a_foreign_body_are_refused() {
        let foreign = |access| {
            let api = Api::start(access);
            api.ask_with("GET", "/v1/status", "Host: evil.example\r\n")
                .0
        };
        assert_eq!(foreign(Access::ReadOnly), 421);
        assert_eq!(foreign(Access::Full), 200);
        let api = Api::start(Access::Full);
        let form = "Host: localhost\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n";
        assert!(matches!(
            api.ask_with("POST", "/v1/reload", form).0,
            400 | 415
        ));
    }

    #[test]
    fn a_body_beyond_the_bound_is_refused() {
        let api = Api::start(Access::Full);
        let body = "x".repeat(BODY_BYTES_MAX + 1);
        let length = body.len();
        let answer = api.raw(&format!(
            "POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        ));
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }

    #[test]
    fn where_everybody_may_come_nothing_can_be_changed() {
        let api = Api::start(Access::ReadOnly);
        let (status, problem) = api.json("POST", "/v1/reload");
        assert_eq!((status, &problem["code"]), (403, &json!("admin.read_only")));
        assert_eq!(api.ask("GET", "/v1/status").0, 200);
    }

    #[test]
    fn the_socket_is_for_owner_and_group() {
        let api = Api::start(Access::Full);
        // its mode is set before the first request is answered
        assert_eq!(api.ask("GET", "/livez").0, 200);
        let mode = std::fs::metadata(&api.socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
    }

    #[test]
    fn only_loopback_is_listened_on() {
        let fake: Arc<Fake> = Arc::default();
        for (address, fine) in [
            ("127.0.0.1:0", true),
            ("[::1]:0", true),
            ("0.0.0.0:0", false),
            ("192.0.2.1:1", false),
        ] {
            let service = service_on_loopback(fake.clone(), address.parse().unwrap());
            assert_eq!(service.is_ok(), fine, "{address}");
        }
    }
}
