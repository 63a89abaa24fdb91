//! Compiles the service definition with a compiler written in Rust, so that a build needs no `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["kybernis/v1/control.proto", "kybernis/v1/ledger.proto"], ["proto"])?;
    // Spans are many: they are handed on as they lie in the message.
    tonic_prost_build::configure().build_transport(false).bytes(".kybernis.v1.SpanBatch.spans").compile_fds(files)?;
    Ok(())
}
