//! The first bytes of a connection: whatever they are, none is lost, and no more are read than a ClientHello may have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waylay::tls::hello::{MAX_HELLO, Opening, read};

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(async {
        // In pieces of this length, as a client may send them.
        let (mut client, mut ours) = tokio::io::duplex(usize::from(step) + 1);
        let send = async move {
            // The reader may have seen enough.
            let _ = client.write_all(bytes).await;
        };
        let ((), opening) = tokio::join!(send, async {
            let opening = read(&mut ours).await.expect("memory does not fail");
            // What was not read is still there.
            let mut rest = Vec::new();
            ours.read_to_end(&mut rest).await.expect("memory does not fail");
            (opening, rest)
        });
        let (opening, rest) = opening;
        let raw = match &opening {
            Opening::Hello { sni, raw, .. } => {
                assert!(sni.as_ref().is_none_or(|sni| *sni == sni.to_ascii_lowercase()));
                raw
            }
            Opening::NotTls(raw) | Opening::Odd(raw) | Opening::TooLong(raw) | Opening::Unfinished(raw) => raw,
            Opening::Silent | Opening::Closed => &Default::default(),
        };
        assert!(raw.len() <= MAX_HELLO);
        assert_eq!([raw, &rest[..]].concat(), bytes);
    });
});
