//! `northgate run --demo`: two small origins in the process, so that the quickstart needs nothing else.

use async_trait::async_trait;
use http::{Response, StatusCode, header};
use pingora_core::apps::http_app::{HttpServer, ServeHttp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::Server;
use pingora_core::services::listening::Service;

/// Where `conf/quickstart.yaml` looks for them.
const ORIGINS: [(&str, &str); 2] = [("one", "127.0.0.1:9101"), ("two", "127.0.0.1:9102")];

/// An origin that says who it is and what it was asked.
struct Origin(&'static str);

#[async_trait]
impl ServeHttp for Origin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let field = |name: &str| {
            let value = request
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let seen = serde_json::json!({
            "origin": self.0,
            "method": request.method.as_str(),
            "path": request.uri.path(),
            "query": request.uri.query(),
            "host": field("host"),
            "x-request-id": field("x-request-id"),
            "x-forwarded-for": field("x-forwarded-for"),
        });
        let body = format!("{seen:#}\n").into_bytes();
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        let length = response.body().len();
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
        response
    }
}

/// Adds both origins to the server.
pub fn add_origins(server: &mut Server) {
    for (name, address) in ORIGINS {
        let mut service = Service::new(
            format!("demo origin {name}"),
            HttpServer::new_app(Origin(name)),
        );
        service.threads = Some(1);
        service.add_tcp(address);
        server.add_service(service);
    }
}

/// Says what a newcomer can do now.
pub fn print_what_to_try(config: &std::path::Path, admin: &[String]) {
    let places = admin.join(", ");
    let socket = admin
        .iter()
        .find_map(|place| place.strip_prefix("unix:"))
        .unwrap_or("");
    println!(
        "Northgate is serving {config}, with two small origins of its own.\n\
         \n\
         Try:\n\
         \n  curl http://127.0.0.1:8080/api/hello      # twice: two origins, in turn, without the /api\n\
         \n  curl -i http://127.0.0.1:8080/nowhere     # a 404 as problem+json\n\
         \n  northgate status -c {config}   # or: curl --unix-socket {socket} http://localhost/v1/status\n\
         \n\
         Metrics: curl http://127.0.0.1:9090/metrics   Admin API: {places}\n\
         Edit {config} and save: the change is in force within a second. A mistake is refused and changes nothing.\n\
         Stop with Ctrl-C.",
        config = config.display(),
    );
}
