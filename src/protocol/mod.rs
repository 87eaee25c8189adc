//! What is carried over HTTP and has rules of its own: calls of gRPC and WebSockets; and what is said before HTTP.
//!
//! Pure: bytes and heads in, facts out. The request path asks what a request is, and what has to be said in the words of
//! its protocol where the gateway itself answers.

pub mod grpc;
pub mod proxy_protocol;
pub mod websocket;
