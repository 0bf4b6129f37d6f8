//! The constant route that `service/benches/transactions` compares with, built as the service is. It prints its address
//! and serves until it is killed. Arguments: bytes of the answer; `loop` for one that does nothing but answer.
#![expect(clippy::print_stdout, reason = "the bench reads the address")]

use std::net::TcpListener;

use scalekit_service::testing::{Yardstick, serve_constant};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::io::Result<()> {
    let bytes = std::env::args().skip(1).find_map(|word| word.parse::<usize>().ok()).unwrap_or(1000);
    let yardstick =
        if std::env::args().any(|word| word == "loop") { Yardstick::Loop } else { Yardstick::Route };
    let body: &'static [u8] = vec![b'x'; bytes].leak();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    // As `scalekit serve` with one thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve_constant(yardstick, listener, body, CancellationToken::new()))
}
