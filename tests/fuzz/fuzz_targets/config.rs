//! What an operator writes: an error that names what is wrong, or a configuration that reads the same when written down.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waylay::config::Config;

fuzz_target!(|text: &str| {
    match Config::parse(text) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("a configuration can be written");
            let again = Config::parse(&written).expect("what was written can be read");
            assert_eq!(toml::to_string(&again).ok(), Some(written));
            let loopback = |address: &std::net::SocketAddr| address.ip().is_loopback();
            assert!(config.proxy.listen.iter().all(loopback) && loopback(&config.admin.listen));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
