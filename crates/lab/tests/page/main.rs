//! The page that vipd serves, in a real browser on a host of the segment, beside what the segment itself shows.
//!
//! They need chromedriver and a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without. With VIPD_PICTURES, pictures are
//! left in that folder.

mod browser;
#[path = "../enclosed/mod.rs"]
mod enclosed;
#[path = "../hosts/mod.rs"]
mod hosts;
#[path = "../served/mod.rs"]
mod served;

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use browser::Browser;
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{NODES, VIP, node_address};
use served::{PORT, start};
use tokio::time::Instant;

/// Far longer than anything here takes; a busy machine may take longer than usual.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a phone and a desk have, in CSS pixels.
const PHONE: (u32, u32) = (390, 1180);
const DESK: (u32, u32) = (1100, 660);

/// Who the page says has the address; nobody if it doesn't name one. What is drawn must be what is said.
fn shown_owner(browser: &Browser) -> Result<Option<usize>> {
    let shown = browser.run(
        "return [document.getElementById('owners').textContent, \
         [...document.querySelectorAll('article.owner')].map((node) => node.dataset.node).join()]",
    )?;
    let (heading, drawn) =
        (shown[0].as_str().context("a heading is text")?, shown[1].as_str().context("names are text")?);
    if !heading.contains(&VIP.to_string()) {
        return Ok(None);
    }
    let owner = NODES.iter().position(|node| heading.ends_with(&format!(" on {node}")));
    ensure!(
        drawn == owner.map_or("", |owner| NODES[owner]),
        "it says {heading:?} and draws {drawn:?} as owner"
    );
    Ok(owner)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn keep_picture(browser: &Browser, name: &str) -> Result<()> {
    let Some(folder) = std::env::var_os("VIPD_PICTURES") else { return Ok(()) };
    Ok(std::fs::write(Path::new(&folder).join(name), browser.picture()?)?)
}

async fn bring_up(lab: &mut Lab) -> Result<usize> {
    lab.start_backends().await?;
    for place in 0..NODES.len() {
        start(lab, place)?;
    }
    lab.await_owner(PATIENCE, |_| true).await
}

#[test]
fn the_page_shows_the_owner_that_the_segment_has_and_says_so_when_it_does_not_know() {
    in_a_lab(
        "the_page_shows_the_owner_that_the_segment_has_and_says_so_when_it_does_not_know",
        async |mut lab| {
            let owner = bring_up(&mut lab).await?;
            let followers: Vec<usize> = (0..NODES.len()).filter(|place| *place != owner).collect();
            let [asked, _] = followers[..] else { anyhow::bail!("there are three") };
            let folder = lab.nodes[asked].folder().to_owned();
            let browser = Browser::start(&lab.client.namespace, &folder).await?;
            browser.look(DESK, "light")?;
            browser.open(&format!("http://{}:{PORT}/", node_address(asked)))?;
            eventually("the owner is shown", || Ok(shown_owner(&browser)? == Some(owner))).await?;
            let counts = "return [document.querySelectorAll('article[data-node]:not(.silent)').length, \
                      document.querySelectorAll('article[data-health=ready]').length].join()";
            eventually("all are well", || Ok(browser.run(counts)? == "3,3")).await?;
            ensure!(browser.complaints()?.is_empty(), "{:?}", browser.complaints()?);

            // A move, while the page is watched: all that it says meanwhile is kept, with the time.
            browser.run(
            "const heading = document.getElementById('owners'); window.said = []; \
             new MutationObserver(() => said.push([Date.now(), heading.textContent])).observe(heading, {childList: true})",
        )?;
            let killed = UNIX_EPOCH.elapsed()?.as_millis();
            lab.nodes[owner].process("vipd")?.kill().await?;
            let next = lab.await_owner(PATIENCE, |node| node != owner).await?;
            eventually("the move is shown", || Ok(shown_owner(&browser)? == Some(next))).await?;
            let said = browser.run("return said")?;
            let said = said.as_array().context("it has said something")?;
            let (last, before) = said.split_last().context("it has said something")?;
            // The owner may be named by the last answer before it was killed, and never again; between the two nobody is known to have it.
            ensure!(
                before.iter().all(|word| word[1].as_str().is_some_and(|text| text.contains("nobody"))),
                "{said:?}"
            );
            let shown = last[0].as_u64().context("a time")?.saturating_sub(u64::try_from(killed)?);
            eprintln!("the failover was on the page {shown} ms after the owner was killed");
            let told = format!("to {}: {} fell silent", NODES[next], NODES[owner]);
            let timeline = "return document.getElementById('timeline').textContent";
            eventually("the reason is told", || {
                Ok(browser.run(timeline)?.as_str().is_some_and(|text| text.contains(&told)))
            })
            .await?;
            let silent = format!(
                "return document.querySelector('article.silent')?.dataset.node === '{}'",
                NODES[owner]
            );
            eventually("the dead node is shown as silent", || Ok(browser.run(&silent)? == true)).await?;
            ensure!(shown_owner(&browser)? == lab.owner(), "the page and the segment agree");

            // Readable on a phone, in the dark.
            for (name, size, scheme) in [
                ("page-desk-light.png", DESK, "light"),
                ("page-desk-dark.png", DESK, "dark"),
                ("page-phone-dark.png", PHONE, "dark"),
            ] {
                browser.look(size, scheme)?;
                let wide = browser.run("return document.documentElement.scrollWidth <= window.innerWidth")?;
                ensure!(wide == true, "at {size:?} it has to be scrolled sideways");
                let back = browser.run("return getComputedStyle(document.body).backgroundColor")?;
                ensure!((back == "rgb(246, 247, 249)") == (scheme == "light"), "{scheme}: {back}");
                keep_picture(&browser, name)?;
            }
            ensure!(browser.complaints()?.is_empty(), "{:?}", browser.complaints()?);

            // Whoever is asked is silent: the page knows nothing any more, and says so.
            lab.nodes[asked].process("vipd")?.kill().await?;
            let stale = "return document.getElementById('stale').checkVisibility() && document.title.startsWith('? ')";
            eventually("the page says that it knows nothing", || Ok(browser.run(stale)? == true)).await?;
            Ok(())
        },
    );
}
