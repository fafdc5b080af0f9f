//! Bodies of HTTP requests in, through the whole router; the answer must be one of ours, in JSON, and never a fault of the server.
//!
//! Form of an input: a byte that chooses route and content type, then the body.
#![no_main]

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt;
use vigie::config::Settings;
use vigie::http;
use vigie::metrics::Metrics;
use vigie::models::ModelHandle;
use vigie::scoring::Model;

const KINDS: [(&str, &str); 7] = [
    ("/score", "application/json"),
    ("/score?id=a&lang=fr", "text/plain; charset=utf-8"),
    ("/score", "application/x-www-form-urlencoded"),
    ("/explain", "application/json"),
    ("/explain", "application/cloudevents+json"),
    ("/v1alpha1/comments:analyze", "application/json"),
    ("/v1alpha1/comments:analyze?key=a", "application/json"),
];
const MOST_BYTES: usize = 4000;

static SERVER: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let model = Model::from_bytes(include_bytes!("../../tests/it/golden/model.vigie")).expect("the golden model is whole");
    let registry = prometheus::Registry::new();
    let metrics = Metrics::register(&registry).expect("an empty registry");
    let mut settings = Settings::defaults();
    settings.http.max_body_bytes = MOST_BYTES + 96;
    settings.input.max_bytes = MOST_BYTES;
    let model = ModelHandle::new(Arc::new(model));
    let router = http::router(&settings.http, &settings.input, model, registry, metrics, Arc::new(|| Ok(())));
    (runtime, router.expect("no token file is named"))
});

fuzz_target!(|data: &[u8]| {
    let Some((&choice, body)) = data.split_first() else { return };
    let (path, content_type) = KINDS[choice as usize % KINDS.len()];
    let (runtime, router) = &*SERVER;
    let request = Request::post(path).header(header::CONTENT_TYPE, content_type).body(Body::from(body.to_vec()));
    let (status, answer) = runtime.block_on(async {
        let response = router.clone().oneshot(request.expect("a request of ours")).await.expect("the router does not fail");
        let status = response.status().as_u16();
        (status, to_bytes(response.into_body(), 64 << 20).await.expect("an answer in memory"))
    });
    let value: Value = serde_json::from_slice(&answer).expect("every answer is JSON");
    match status {
        200 => {
            let records = value.as_array().map_or(1, Vec::len);
            // A record of an empty text is about 250 bytes; spans of an explanation are bounded by the words.
            assert!(answer.len() <= 1000 * records + 200 * body.len() + 8000, "{} of {}", answer.len(), body.len());
        }
        400 | 413 | 415 | 422 => assert!(value["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{value}"),
        _ => panic!("status {status}: {value}"),
    }
});
