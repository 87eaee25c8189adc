//! What a browser does with cookies and redirects.

use super::client::Call;
use super::message::Message;
use std::net::SocketAddr;

/// One browser: its cookies, by the host and port that set them.
#[derive(Clone, Default)]
pub struct Browser {
    pub cookies: Vec<(String, String, String)>,
}

impl Browser {
    /// Goes to a page, as when somebody types its address.
    pub async fn goes(&mut self, address: SocketAddr, target: &str) -> Message {
        let call = Call::new(address, &format!("GET {target}")).host(&address.to_string());
        self.sends(address, Self::as_page(call)).await
    }

    /// What browsers say when somebody goes to a page.
    pub fn as_page(call: Call) -> Call {
        call.header(
            "Accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        )
        .header("Sec-Fetch-Mode", "navigate")
    }

    /// Sends a request with the cookies for that host, and keeps those that come.
    pub async fn sends(&mut self, address: SocketAddr, call: Call) -> Message {
        let call = match self.header(address) {
            Some(header) => call.header("Cookie", &header),
            None => call,
        };
        let answer = call.send().await;
        self.keep(address, &answer);
        answer
    }

    pub fn header(&self, address: SocketAddr) -> Option<String> {
        let host = address.to_string();
        let ours = self.cookies.iter().filter(|(known, ..)| *known == host);
        let pairs: Vec<String> = ours
            .map(|(_, name, value)| format!("{name}={value}"))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    pub fn keep(&mut self, address: SocketAddr, answer: &Message) {
        let host = address.to_string();
        for cookie in answer.headers("set-cookie") {
            let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
            let (name, value) = pair.split_once('=').expect("a cookie");
            self.cookies
                .retain(|(known, other, _)| !(*known == host && other == name));
            let ends =
                attributes.contains("Max-Age=0") || attributes.contains("expires=Thu, 01 Jan 1970");
            if !ends {
                self.cookies
                    .push((host.clone(), name.to_owned(), value.to_owned()));
            }
        }
    }

    pub fn cookie(&self, name: &str) -> Option<&str> {
        let found = self.cookies.iter().find(|(_, known, _)| known == name);
        found.map(|(.., value)| value.as_str())
    }

    pub fn set(&mut self, name: &str, value: &str) {
        for (_, known, old) in &mut self.cookies {
            if known == name {
                value.clone_into(old);
            }
        }
    }
}
