//! `northgate run --demo`: two small origins in the process, so that the quickstart needs nothing else.

use async_trait::async_trait;
use http::{Response, StatusCode, header};
use pingora_core::apps::http_app::{HttpServer, ServeHttp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::Server;
use pingora_core::services::listening::Service;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

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

/// Whether the origins can listen: Pingora would find out about a taken port after the start, and only log it.
///
/// # Errors
/// A sentence for the newcomer.
pub fn check_ports() -> Result<(), String> {
    for (name, address) in ORIGINS {
        std::net::TcpListener::bind(address).map_err(|error| {
            format!("origin `{name}` of the demo can't listen on {address}: {error}; is another demo running?")
        })?;
    }
    Ok(())
}

/// The configuration of the first five minutes.
const QUICKSTART: &str = include_str!("../../conf/quickstart.yaml");

/// Where the quickstart is: in the working folder, as in the repository, or a copy that lives as long as this does.
pub struct Quickstart {
    path: PathBuf,
    /// What is removed at the end.
    copy: Option<PathBuf>,
}

impl Quickstart {
    /// # Errors
    /// If there is none, and no place for a copy.
    pub fn find() -> io::Result<Self> {
        let path = PathBuf::from("conf/quickstart.yaml");
        match path.is_file() {
            true => Ok(Self { path, copy: None }),
            false => Self::copy_in(&std::env::temp_dir()),
        }
    }

    /// A folder of our own: nobody else may put something else in the file's place.
    fn copy_in(parent: &Path) -> io::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = now.unwrap_or_default().as_nanos();
        let folder = parent.join(format!("northgate-demo-{}-{nanos}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        let path = folder.join("quickstart.yaml");
        std::fs::write(&path, QUICKSTART)?;
        Ok(Self {
            path,
            copy: Some(folder),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        if let Some(folder) = &self.copy {
            // a temporary folder that stays is no reason to fail
            let _ = std::fs::remove_dir_all(folder);
        }
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
pub fn print_what_to_try(config: &Path, admin: &[String]) {
    let places = admin.join(", ");
    let socket = admin
        .iter()
        .find_map(|place| place.strip_prefix("unix:"))
        .unwrap_or("");
    let _ = writeln!(
        io::stdout(),
        "Northgate is serving {config}, with two small origins of its own.\n\
         \n\
         Try, in another terminal:\n\
         \n  \
         curl http://127.0.0.1:8080/api/hello       # twice: two origins in turn, and they see /hello\n  \
         curl -i http://127.0.0.1:8080/nowhere      # a 404 as problem+json\n  \
         curl -iL http://127.0.0.1:8080/old/link    # a redirect\n\
         \n\
         Edit {config} and save: a change is in force within a second, a mistake is refused and changes nothing.\n\
         \n  \
         metrics    curl http://127.0.0.1:9090/metrics\n  \
         status     curl --unix-socket {socket} http://localhost/v1/status\n  \
         admin API  {places}\n\
         \n\
         Ctrl-C stops it.\n",
        config = config.display(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_quickstart_lives_as_long_as_the_demo() {
        let folder = tempfile::tempdir().unwrap();
        let copy = Quickstart::copy_in(folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(copy.path()).unwrap(), QUICKSTART);
        assert!(crate::boot::configuration::check(copy.path()).is_ok());
        drop(copy);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_taken_port_is_named_before_the_start() {
        // whoever has it, this test or another process, it is taken
        let _held = std::net::TcpListener::bind(ORIGINS[1].1);
        let said = check_ports().unwrap_err();
        assert!(
            said.contains("127.0.0.1:910") && said.contains("demo"),
            "{said}"
        );
    }
}
