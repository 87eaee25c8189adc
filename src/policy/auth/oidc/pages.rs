//! The few pages that the gateway shows itself. Nothing of them came from outside but paths of the configuration and
//! targets on this origin, and these are escaped.

use crate::exchange::answer::Answer;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{HeaderValue, StatusCode};

fn page(title: &str, body: &str, referrer: &'static str) -> Answer {
    let text = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n<h1>{title}</h1>\n{body}</html>\n"
    );
    let mut answer = Answer::empty(StatusCode::OK)
        .header(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))
        .header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .header(REFERRER_POLICY, HeaderValue::from_static(referrer))
        // nobody puts it into a frame, under a button of their own
        .header(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"))
        .header(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
        );
    answer.body = Bytes::from(text);
    answer
}

/// Goes on to a page of this origin, as one that this origin sends there.
pub fn onward(url: &str) -> Answer {
    let url = escaped(url);
    page(
        "Logged in",
        &format!("<meta http-equiv=\"refresh\" content=\"0; url={url}\"><p><a href=\"{url}\">Go on</a></p>\n"),
        // its own URL has a code
        "no-referrer",
    )
}

/// Asks whether it is the user who wants to log out.
pub fn confirm_logout(path: &str) -> Answer {
    page(
        "Log out?",
        &format!("<form method=\"post\" action=\"{}\"><button>Log out</button></form>\n", escaped(path)),
        // with less, the form comes with `Origin: null`, as that of another site does
        "same-origin",
    )
}

pub fn logged_out() -> Answer {
    page("Logged out", "", "no-referrer")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
