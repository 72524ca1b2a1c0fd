//! The iroh endpoint: one socket at the advertised address, no relay, no look-up service, nobody but members.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use iroh::{
    Endpoint, RelayMode, SecretKey,
    endpoint::{BindError, QuicTransportConfig, VarInt, presets},
};

use super::{frame::ALPN, gossip, members::Members};

/// One stream's receive window, in bytes. Never above 2 MiB: the reassembly of larger ones can overflow, and that ends
/// the whole connection.
const STREAM_WINDOW: u32 = 1 << 20;
/// A connection's receive window, in bytes.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes in flight to one peer.
const SEND_WINDOW: u64 = 2 << 20;
/// Requests that one peer may have open.
const STREAMS: u32 = 256;
/// Streams of one gossip connection: one for what is said, and one more while the connection is replaced.
const GOSSIP_STREAMS: u32 = 2;

/// Why the swarm cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not one of this machine's.
    #[error(
        "cannot listen on udp {addr}: {source}; is another waylay running, or is this not an address of this node?"
    )]
    Listen {
        /// What was to be bound.
        addr: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// iroh could not set up an endpoint.
    #[error("cannot start the peer endpoint on {addr}: {source}")]
    Endpoint {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: Box<BindError>,
    },
    /// The gossip did not begin.
    #[error("cannot join the gossip of the members: {0}")]
    Gossip(#[from] iroh_gossip::api::ApiError),
    /// Others need an address to reach us at.
    #[error("others cannot reach {0}: name the address that they should use")]
    Unspecified(SocketAddr),
    /// There is no secret to derive an identity from.
    #[error("a cluster secret is needed")]
    NoSecret,
}

/// A free port in place of port 0: the identity follows from the port, so it must be known before the socket is iroh's.
/// For any other address, whether it can be bound at all, because that error is the clearer one.
pub(super) fn settle(addr: SocketAddr) -> Result<SocketAddr, StartError> {
    UdpSocket::bind(addr).and_then(|socket| socket.local_addr()).map_err(|source| StartError::Listen { addr, source })
}

/// Binds the endpoint. `key` is the one that others derive from the advertised address.
pub(super) async fn bind(addr: SocketAddr, key: SecretKey, members: &Members) -> Result<Endpoint, StartError> {
    let failed = |source| StartError::Endpoint { addr, source: Box::new(source) };
    let builder = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .secret_key(key)
        .alpns(vec![ALPN.to_vec(), gossip::ALPN.to_vec()])
        .clear_ip_transports()
        .transport_config(transport())
        .hooks(members.clone());
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let builder = builder.bind_addr(addr).map_err(|error| StartError::Listen { addr, source: invalid(error) })?;
    builder.bind().await.map_err(failed)
}

/// How connections between members are set up.
pub fn transport() -> QuicTransportConfig {
    // Fewer acknowledgements (`ack_frequency_config`) would be 12 to 35 % more throughput, but noq 1.4.0 writes the
    // frame that asks for them without looking whether it fits. In the second of two tail-loss probes, whose size is
    // the first one's, it may not: that is a panic while a lock is held, and the panic of its release ends the process.
    QuicTransportConfig::builder()
        // A cluster's network, not the internet's 333 ms: the first lost packet would cost a second.
        .initial_rtt(Duration::from_millis(2))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(GOSSIP_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .build()
}
