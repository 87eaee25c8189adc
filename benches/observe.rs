//! What observing costs a request: adding to the metrics, one line of the access log, the trace context.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::expect_used, reason = "a bench may end by panicking")]

use criterion::{Criterion, criterion_group, criterion_main};
use http::{Method, Version};
use northgate::exchange::Scheme;
use northgate::exchange::connection::Peer;
use northgate::observe::access_log::{AccessLogConfig, AccessLogs, Format, LogPath, Record};
use northgate::observe::metrics::{Metrics, RouteMetrics};
use northgate::observe::trace::TraceContext;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

const TRACEPARENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn record() -> Record<'static> {
    Record {
        time: SystemTime::now(),
        request_id: b"0193494b-5d5e-7c3f-9d6a-2f1f0c8d7e6b",
        client_address: Some([203, 0, 113, 7].into()),
        peer: Peer::Ip(([203, 0, 113, 7], 50_000).into()),
        introduced_by: None,
        listener: "public",
        method: &Method::GET,
        scheme: Scheme::Https,
        host: "shop.example.com",
        path: b"/orders/7f9c24e5",
        query: Some(b"page=2&sort=created"),
        version: Version::HTTP_11,
        status: Some(200),
        route: Some("orders"),
        identity: None,
        service: Some("orders"),
        endpoint: Some("10.0.0.1:8080"),
        tries: 1,
        request_bytes: 0,
        response_bytes: 1024,
        duration: Duration::from_micros(1234),
        own: Some(Duration::from_micros(45)),
        upstream: Some(Duration::from_micros(1100)),
        user_agent: Some(
            b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0",
        ),
        referer: Some(b"https://shop.example.com/orders"),
        problem: None,
        reason: None,
        store_failure: None,
        trace_id: TraceContext::parse(TRACEPARENT).map(|context| context.trace_id()),
        tls_version: Some("TLSv1.3"),
        server_name: Some("shop.example.com"),
    }
}

fn access_log(criterion: &mut Criterion) {
    for (name, format) in [
        ("access_log/json", Format::Json),
        ("access_log/combined", Format::Combined),
    ] {
        let logs = AccessLogs::start(&Arc::default(), &Arc::default()).expect("a thread");
        let path = LogPath::File("/dev/null".into());
        let config = AccessLogConfig {
            path,
            format,
            ..Default::default()
        };
        let log = logs.open(&config).expect("/dev/null");
        let record = record();
        criterion.bench_function(name, |bench| bench.iter(|| log.write(black_box(&record))));
    }
}

fn finish(route: &RouteMetrics) {
    let (total, own) = (Duration::from_micros(1234), Duration::from_micros(45));
    route.finished(black_box(&Method::GET), Some(200), total, own);
}

fn metrics(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let route = metrics.route("orders");
    criterion.bench_function("metrics/1_thread", |bench| bench.iter(|| finish(&route)));
    criterion.bench_function("metrics/8_threads", |bench| {
        bench.iter_custom(|rounds| {
            let began = Instant::now();
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| (0..rounds).for_each(|_| finish(&route)));
                }
            });
            began.elapsed() / 8
        });
    });
}

fn exposition(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let routes: Vec<_> = (0..1000)
        .map(|number| metrics.route(&format!("route-{number}")))
        .collect();
    routes.iter().for_each(|route| finish(route));
    criterion.bench_function("metrics_text/1k_routes", |bench| {
        bench.iter(|| metrics.text())
    });
}

fn trace(criterion: &mut Criterion) {
    criterion.bench_function("trace/continued", |bench| {
        bench.iter(|| {
            TraceContext::continued(std::iter::once(black_box(TRACEPARENT)))
                .map(|context| context.header())
        });
    });
}

criterion_group!(benches, access_log, metrics, exposition, trace);
criterion_main!(benches);
