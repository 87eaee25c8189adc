//! Client certificates: read once for each connection, and looked up for each request.

use criterion::Criterion;
use northgate::identity::certificate::{Attribute, ClientCertificate, KnownCertificates};
use rcgen::{CertificateParams, DnType, KeyPair};
use std::hint::black_box;
use std::sync::Arc;

pub fn bench(criterion: &mut Criterion) {
    let mut params = CertificateParams::new(vec!["orders.example".to_owned()]).expect("a name");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Acme");
    let key = KeyPair::generate().expect("a key");
    let made = params.self_signed(&key).expect("a certificate");
    let chain = [made.der().clone()];
    let read = || ClientCertificate::read(black_box(&chain), [7; 32], [0; 32]).expect("it is one");
    let mut group = criterion.benchmark_group("mtls");
    group.bench_function("read", |bencher| bencher.iter(read));
    let certificate = read();
    for count in [1, 100_000] {
        let consumer: Arc<str> = "acme".into();
        let mut known = KnownCertificates::default();
        known.add(Attribute::Dns, "orders.example", &consumer);
        for other in 1..count {
            known.add(Attribute::Dns, &format!("{other}.example"), &consumer);
        }
        group.bench_function(format!("find/{count}"), |bencher| {
            bencher.iter(|| assert!(known.find(black_box(&certificate)).is_ok()));
        });
    }
    group.finish();
}
