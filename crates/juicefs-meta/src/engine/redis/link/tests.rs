//! Against real servers, and against some that are not what they should be.

mod breaks;
mod calls;
mod groups;
mod outages;
mod refusals;
mod watching;

use std::{sync::Arc, time::Duration};

use juicefs_testkit::redis::RedisServer;
use redis::Value;

use super::{Lane, Link, LinkError, Request};
use crate::engine::redis::address::Address;

fn address(url: &str) -> Address {
    let (driver, rest) = url.split_once("://").expect("a URL");
    Address::parse(driver, rest).expect("an address")
}

fn link(url: &str) -> Arc<Link> {
    Arc::new(Link::new(address(url), false))
}

/// A link that gives up soon.
fn hasty(url: &str, budget: Duration) -> Arc<Link> {
    let mut address = address(url);
    let options = address.options_mut();
    (options.retry_budget, options.first_budget) = (budget, budget);
    Arc::new(Link::new(address, false))
}

fn bulk(text: &str) -> Value {
    Value::BulkString(text.into())
}

async fn call(link: &Link, args: &[&str]) -> Value {
    let mut replies = link.call(Lane::Small, &Request::of(args)).await.expect("a reply");
    assert_eq!(replies.len(), 1);
    replies.pop().expect("one")
}

async fn refusal(url: &str) -> String {
    match link(url).ready().await {
        Err(LinkError::Refused(why)) => why,
        other => panic!("{url}: {other:?}"),
    }
}
