//! Waiting for something to become true, with a deadline and a name for what was awaited.
//!
//! This is the only place that pauses: nothing in the harness guesses how long a start takes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long between two looks. Short, because each look is cheap and tests wait for many things.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until `ready` gives a value, and returns it.
///
/// # Errors
/// When `deadline` passes first (naming `what`), or when a look itself fails: that is taken as final.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut ready: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = ready().await? {
            return Ok(value);
        }
        if started.elapsed() > deadline {
            bail!("{what}: not within {deadline:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The same for code that cannot be async (guards being dropped, namespaces being made): looks until `ready` is true.
///
/// # Errors
/// When `deadline` passes first.
pub fn until(what: &str, deadline: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !ready() {
        if started.elapsed() > deadline {
            bail!("{what}: not within {deadline:?}");
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_the_value_once_it_is_there() -> Result<()> {
        let mut looks = 0;
        let seen = eventually("third look", Duration::from_secs(5), async || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        })
        .await?;
        assert_eq!(seen, 3);
        Ok(())
    }

    #[tokio::test]
    async fn names_what_never_came() {
        let never = eventually("the moon", Duration::from_millis(1), async || Ok(None::<()>)).await;
        assert!(never.is_err_and(|error| error.to_string().contains("the moon")));
    }
}
