//! A DNS server over UDP, as programmable as an origin: what a name has may change at any time, and it may fall silent.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What a name has.
#[derive(Clone, Debug)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: &'static str,
    },
}

const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;

#[derive(Default)]
struct Zone {
    names: HashMap<String, (u32, Vec<Record>)>,
    silent: bool,
    failing: bool,
    asked: Vec<String>,
}

/// A server that answers as long as the value lives. Names that it does not have do not exist.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    serving: JoinHandle<()>,
}

impl Dns {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind((super::loopback(), 0))
            .await
            .expect("a socket");
        let address = socket.local_addr().expect("its address");
        let zone = Arc::new(Mutex::new(Zone::default()));
        let answering = zone.clone();
        let serving = tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let answer = answering
                    .lock()
                    .expect("no panic")
                    .answer(&buffer[..length]);
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, client).await;
                }
            }
        });
        Self {
            address,
            zone,
            serving,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the name has these records, and no others.
    pub fn set(&self, name: &str, ttl: u32, records: Vec<Record>) {
        let mut zone = self.zone.lock().expect("no panic");
        zone.names.insert(name.to_owned(), (ttl, records));
    }

    pub fn remove(&self, name: &str) {
        self.zone.lock().expect("no panic").names.remove(name);
    }

    /// Whether questions are left without an answer.
    pub fn silence(&self, silent: bool) {
        self.zone.lock().expect("no panic").silent = silent;
    }

    /// Whether all that is answered is SERVFAIL.
    pub fn fail(&self, failing: bool) {
        self.zone.lock().expect("no panic").failing = failing;
    }

    /// How often the name was asked for, by any type.
    pub fn asked(&self, name: &str) -> usize {
        let zone = self.zone.lock().expect("no panic");
        zone.asked.iter().filter(|asked| *asked == name).count()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Zone {
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let mut labels = Vec::new();
        let mut at = 12;
        while query[at] > 0 {
            let length = usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
            at += 1 + length;
        }
        let question = &query[12..at + 5];
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let name = labels.join(".");
        self.asked.push(name.clone());
        if self.silent {
            return None;
        }
        let known = self.names.get(&name);
        let code = match known {
            _ if self.failing => SERVFAIL,
            None => NXDOMAIN,
            Some(_) => 0,
        };
        let (ttl, records) = known.filter(|_| code == 0).cloned().unwrap_or_default();
        let data: Vec<Vec<u8>> = records
            .iter()
            .filter_map(|record| data_of(record, kind))
            .collect();
        let mut answer = query[..2].to_vec();
        answer.extend([0x85, 0x80 | code, 0, 1]);
        answer.extend(u16::try_from(data.len()).expect("few").to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(question);
        for data in data {
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}

/// The data of a record, if it is of this type.
fn data_of(record: &Record, kind: u16) -> Option<Vec<u8>> {
    match (record, kind) {
        (Record::A(address), 1) => Some(address.octets().to_vec()),
        (Record::Aaaa(address), 28) => Some(address.octets().to_vec()),
        (
            Record::Srv {
                priority,
                weight,
                port,
                target,
            },
            33,
        ) => {
            let mut data: Vec<u8> = [priority, weight, port]
                .iter()
                .flat_map(|part| part.to_be_bytes())
                .collect();
            for label in target.split('.') {
                data.push(u8::try_from(label.len()).expect("a label"));
                data.extend(label.bytes());
            }
            data.push(0);
            Some(data)
        }
        _ => None,
    }
}
