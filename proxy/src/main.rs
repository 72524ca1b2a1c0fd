//! The `waylay` binary: hands its arguments to the library.

fn main() -> std::process::ExitCode {
    waylay::cli::main()
}
