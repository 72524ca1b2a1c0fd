//! An https server on loopback that presents what it is told to, answers like a registry with one image, and remembers
//! the requests that got through.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use waylay_certs::{Evidence, Process};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,
"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"layers":[]}"#;

type Look = dyn Fn(&Process) -> Option<Evidence> + Send + Sync;

pub(crate) struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    tls: Arc<ServerConfig>,
    look: Box<Look>,
    /// The client; connections wait until it is known.
    client: OnceLock<u32>,
    requests: Mutex<Vec<String>>,
    evidence: Mutex<Vec<Option<Evidence>>>,
}

impl Server {
    /// Presents `key` to everybody. `look` is asked about the client's process at each connection.
    pub(crate) fn start(
        listener: TcpListener,
        key: Arc<CertifiedKey>,
        look: impl Fn(&Process) -> Option<Evidence> + Send + Sync + 'static,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Always(key)));
        let shared = Arc::new(Shared {
            tls: Arc::new(tls),
            look: Box::new(look),
            client: OnceLock::new(),
            requests: Mutex::default(),
            evidence: Mutex::default(),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { shared }
    }

    /// Names the process that connects.
    pub(crate) fn expect(&self, pid: u32) {
        self.shared.client.set(pid).unwrap();
    }

    /// The first lines of the requests that came through TLS.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// What was found out about the client, once for each connection.
    pub(crate) fn evidence(&self) -> Vec<Option<Evidence>> {
        self.shared.evidence.lock().unwrap().clone()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let evidence = Process::read(*self.client.wait()).ok().and_then(|process| (self.look)(&process));
        self.evidence.lock().unwrap().push(evidence);
        let mut stream = StreamOwned::new(ServerConnection::new(self.tls.clone()).unwrap(), stream);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_string();
        let (kind, body) = match line.split(' ').nth(1) {
            Some(path) if path.contains("/manifests/") => ("application/vnd.oci.image.manifest.v1+json", MANIFEST),
            Some(path) if path.contains("/tags/list") => ("application/json", r#"{"name":"x","tags":["1"]}"#),
            _ => ("application/json", "{}"),
        };
        self.requests.lock().unwrap().push(line);
        let length = body.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        // A client that has left early has shown what it thinks.
        let _ = stream.write_all((head + body).as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
