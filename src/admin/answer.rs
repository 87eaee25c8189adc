//! Answers of the admin API: JSON, or a problem.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Declares the codes as one table: variant, code, status, title.
macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident $code:literal $status:ident $title:literal;)*) => {
        /// Why the admin API refuses a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($(#[doc = $doc])* $name),* }

        impl Code {
            /// The stable word in the member `code`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code),* }
            }

            pub const fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status),* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title),* }
            }
        }
    };
}

codes! {
    /// The request could not be read.
    BadRequest "admin.request" BAD_REQUEST "Malformed request";
    /// Nothing changes anything over TCP.
    ReadOnly "admin.read_only" FORBIDDEN "Read-only over TCP";
    /// There is nothing at this path.
    NotFound "admin.not_found" NOT_FOUND "Not found";
    /// There is something, but not for this method.
    Method "admin.method" METHOD_NOT_ALLOWED "Method not allowed";
    /// It can't be done at the moment.
    Conflict "admin.conflict" CONFLICT "Not possible now";
    /// What has changed can't be written to the disk.
    Unwritten "admin.unwritten" SERVICE_UNAVAILABLE "Not written";
    /// The body is larger than anything that is taken here.
    TooLarge "admin.body_too_large" PAYLOAD_TOO_LARGE "Content too large";
    /// A body that is not said to be JSON.
    MediaType "admin.media_type" UNSUPPORTED_MEDIA_TYPE "A body must be application/json";
    /// `Host` is not this machine's loopback: a web page under a name of its own may be behind it.
    Host "admin.host" MISDIRECTED_REQUEST "Not this host";
    /// The configuration was refused; the old one goes on.
    ConfigRefused "config.refused" UNPROCESSABLE_ENTITY "Configuration refused";
    /// An answer could not be written as JSON: a defect of ours.
    Internal "admin.internal" INTERNAL_SERVER_ERROR "Internal error";
}

/// `value` as JSON.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Bytes> {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            // a shell shows its prompt on a line of its own
            body.push(b'\n');
            whole(status, "application/json", body.into())
        }
        Err(error) => {
            tracing::error!("an answer of the admin API can't be written: {error}");
            problem(Code::Internal, None)
        }
    }
}

/// A problem without members of its own. The detail is for the operator who asked.
pub fn problem(code: Code, detail: Option<&str>) -> Response<Bytes> {
    problem_with(code, detail, Map::new())
}

/// A problem with further members (RFC 9457 §3.2).
pub fn problem_with(
    code: Code,
    detail: Option<&str>,
    members: Map<String, Value>,
) -> Response<Bytes> {
    let status = code.status();
    let mut problem = json!({
        "type": "about:blank",
        "title": code.title(),
        "status": status.as_u16(),
        "code": code.as_str(),
    });
    if let Some(object) = problem.as_object_mut() {
        object.extend(detail.map(|detail| ("detail".to_owned(), detail.into())));
        object.extend(members);
    }
    whole(
        status,
        "application/problem+json",
        format!("{problem}\n").into(),
    )
}

/// A whole answer. Nothing here may be kept by a cache or be taken for something else by a browser.
pub fn whole(status: StatusCode, media_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_of_the_standard_and_its_own() {
        let members = Map::from_iter([("text".to_owned(), json!("x"))]);
        let response = problem_with(Code::ConfigRefused, Some("2 errors"), members);
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert!(response.body().ends_with(b"}\n"));
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        let expected = json!({
            "type": "about:blank", "title": "Configuration refused", "status": 422, "code": "config.refused",
            "detail": "2 errors", "text": "x",
        });
        assert_eq!(body, expected);
    }
}
