//! Forwarded ports: WebSockets whose messages begin with the number of a channel, an even one for data.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::world::World;

pub(super) fn upgrade(
    world: &Arc<Mutex<World>>,
    namespace: &str,
    pod: &str,
    request: &mut Request,
) -> Response {
    let port = {
        let world = world.lock().unwrap();
        let object = world.get("pods", namespace, pod);
        let component =
            object.and_then(|it| it["metadata"]["labels"]["app.kubernetes.io/component"].as_str());
        [Some(pod), component].into_iter().flatten().find_map(|name| world.forwards.get(name).copied())
    };
    let Some(port) = port else {
        return (StatusCode::NOT_FOUND, "the test names no port for it").into_response();
    };
    let query = request.uri().query().unwrap_or_default().as_bytes();
    let asked = url::form_urlencoded::parse(query).find(|(key, _)| key == "ports").unwrap().1;
    let asked: u16 = asked.parse().unwrap();
    let header = |name: &str| request.headers().get(name).unwrap().to_str().unwrap().to_owned();
    assert!(header("sec-websocket-protocol").contains("v4.channel.k8s.io"));
    let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            carry(socket, asked, port).await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .header("sec-websocket-protocol", "v4.channel.k8s.io")
        .body(Body::empty())
        .unwrap()
}

async fn carry(mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>, asked: u16, port: u16) {
    // Each channel begins with the port that it is for.
    for channel in [0, 1] {
        let [low, high] = asked.to_le_bytes();
        if socket.send(Message::binary(vec![channel, low, high])).await.is_err() {
            return;
        }
    }
    // The pod's port refuses: the channels end.
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let mut buffer = vec![0; 64 << 10];
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&0) => {
                    if stream.write_all(&bytes[1..]).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => {}
                // Hung up.
                _ => return,
            },
            read = stream.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { return };
                let mut message = vec![0];
                message.extend(&buffer[..count]);
                if socket.send(Message::binary(message)).await.is_err() {
                    return;
                }
            }
        }
    }
}
