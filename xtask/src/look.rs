//! Pages as people see them: pictures of reports and other pages on a phone and a desk, light and dark, and whether a page is wider
//! than its screen. A Chromium on this machine draws them.
//!
//! A window of Chromium is 500 pixels wide at least, so that the page stands in a frame of the width that is asked for, and the
//! picture is cut to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use topwork_core::files::{ELSEWHERE, vacant};

/// Widths in CSS pixels: a phone, a desk.
const WIDTHS: [u32; 2] = [390, 1280];
/// Colour schemes, as the setting of Blink numbers them.
const SCHEMES: [(&str, u8); 2] = [("light", 1), ("dark", 0)];
/// Least width of a window, and most height of a picture.
const NARROWEST: u32 = 500;
const HIGHEST: u32 = 16_000;
/// What the browser may be called, in the order in which it is looked for.
const BROWSERS: [&str; 5] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
/// Longest time that it may take over a page.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pages that need nothing beside them: a run's report.html, a page of compare, of explain or of the bench
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pages: Vec<PathBuf>,
    /// Folder for the pictures; nothing that is there is replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The browser [default: the first of chromium, chromium-browser, google-chrome, google-chrome-stable, chrome]
    #[arg(long, value_name = "FILE")]
    browser: Option<PathBuf>,
}

/// What a page says of itself.
#[derive(Debug, PartialEq, Deserialize)]
struct Measured {
    /// Of all that is in it, in CSS pixels.
    width: u32,
    height: u32,
    /// Whether it was told that dark is preferred.
    dark: bool,
    /// Parts that stick out.
    outside: Vec<String>,
}

/// Tells the frame's surroundings what there is to know. What sticks out of a part that scrolls by itself is no fault.
const MEASURE: &str = "<script>addEventListener('load',()=>{\
    const root=document.documentElement,out=[];\
    const inside=e=>{for(let p=e.parentElement;p&&p!==document.body;p=p.parentElement)\
    if(getComputedStyle(p).overflowX!=='visible')return true;return false};\
    for(const e of document.body.querySelectorAll('*'))\
    if(out.length<3&&e.getBoundingClientRect().right>root.clientWidth+1&&!inside(e))\
    out.push(e.tagName.toLowerCase()+' '+(e.textContent||'').trim().slice(0,40));\
    parent.postMessage({width:root.scrollWidth,height:root.scrollHeight,\
    dark:matchMedia('(prefers-color-scheme:dark)').matches,outside:out},'*')})</script>";

/// A page around the page, `width` by `height` pixels, which writes down what that says of itself.
fn frame(width: u32, height: u32) -> String {
    format!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\">\
         <style>body{{margin:0}}iframe{{border:0;display:block;width:{width}px;height:{height}px}}</style>\
         <script>addEventListener('message',m=>document.getElementById('said').textContent=JSON.stringify(m.data))</script>\
         <iframe src=\"page.html\" scrolling=\"no\"></iframe><pre id=\"said\" hidden></pre>"
    )
}

/// What a page said, of the text of the frame's document.
fn said(document: &str) -> Option<Measured> {
    let text = document.split_once("<pre id=\"said\"")?.1.split_once('>')?.1.split_once("</pre>")?.0;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", " ").replace("&amp;", "&");
    serde_json::from_str(&text).ok()
}

/// Does what the command line says.
pub fn run(args: &Args) -> Result<()> {
    let browser = Browser::find(args.browser.as_deref())?;
    let mut names: Vec<String> = Vec::new();
    for page in &args.pages {
        let name = name(page)?;
        if names.contains(&name) {
            bail!("{}: another page is called {name}, too: look at it by itself, with another --out", page.display());
        }
        names.push(name);
    }
    let pictures = |name: &str| {
        let of = |width: u32| SCHEMES.map(|(scheme, number)| (width, number, format!("{name}-{width}-{scheme}.png")));
        WIDTHS.into_iter().flat_map(of).collect::<Vec<_>>()
    };
    for (.., picture) in names.iter().flat_map(|name| pictures(name)) {
        vacant(&args.out.join(picture), ELSEWHERE)?;
    }
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let mut faults = 0;
    for (page, name) in args.pages.iter().zip(&names) {
        let sitting = Sitting::new(&browser, page)?;
        for (width, scheme, picture) in pictures(name) {
            let found = sitting.measure(width, scheme)?;
            if found.dark != (scheme == 0) {
                bail!("{}: it does not see the colour scheme: use another Chromium", browser.path.display());
            }
            sitting.picture(width, found.height, scheme, &args.out.join(&picture))?;
            let cut = if found.height > HIGHEST { ", cut" } else { "" };
            let wide = if found.width > width {
                faults += 1;
                format!("; {} pixels WIDER than its screen: {}", found.width - width, found.outside.join(" | "))
            } else {
                String::new()
            };
            println!("{picture}: {} pixels high{cut}{wide}", found.height);
        }
    }
    match faults {
        0 => Ok(()),
        n => bail!(
            "{n} pictures are of pages that are wider than their screen: wrap what sticks out in a part that scrolls"
        ),
    }
}

/// What the pictures of a page are called: by its folder, of which a run has one, and its own name.
fn name(page: &Path) -> Result<String> {
    let whole = page.canonicalize().with_context(|| page.display().to_string())?;
    let stem = whole.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = whole.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    Ok(folder.map_or(stem.clone(), |folder| format!("{folder}-{stem}")))
}

struct Browser {
    path: PathBuf,
}

impl Browser {
    fn find(named: Option<&Path>) -> Result<Self> {
        if let Some(path) = named {
            return Ok(Self { path: path.into() });
        }
        let folders: Vec<PathBuf> =
            std::env::var_os("PATH").map(|all| std::env::split_paths(&all).collect()).unwrap_or_default();
        let places = BROWSERS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        match places.into_iter().find(|place| place.is_file()) {
            Some(path) => Ok(Self { path }),
            None => bail!("no browser is here ({}): install Chromium, or name one with --browser", BROWSERS.join(", ")),
        }
    }

    /// Runs it without a window; gives standard output.
    fn run(&self, home: &Path, size: [u32; 2], scheme: u8, more: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.path);
        command.args([
            "--headless=new",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--virtual-time-budget=3000",
        ]);
        // As the superuser it does not start otherwise; what it is shown are pages of our own.
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").or_else(|_| fs::metadata(home))?) == 0 {
            command.arg("--no-sandbox");
        }
        command.arg(format!("--user-data-dir={}", home.join("profile").display()));
        command.arg(format!("--window-size={},{}", size[0].max(NARROWEST), size[1]));
        command.arg(format!("--blink-settings=preferredColorScheme={scheme}")).args(more);
        command.arg(format!("file://{}", home.join("frame.html").display()));
        let output = home.join("said");
        command.stdin(Stdio::null()).stdout(fs::File::create(&output)?).stderr(fs::File::create(home.join("errors"))?);
        let called = self.path.display();
        let mut child = command.spawn().with_context(|| format!("{called} does not start: name another --browser"))?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!(
                    "{called} did not draw the page in {} s: try again, or name another --browser",
                    PATIENCE.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            let errors = fs::read_to_string(home.join("errors")).unwrap_or_default();
            bail!("{called} failed ({status}): {}", errors.lines().last().unwrap_or("it says nothing"));
        }
        fs::read_to_string(&output).with_context(|| output.display().to_string())
    }
}

/// A copy of a page in a place where it can be framed.
struct Sitting<'a> {
    browser: &'a Browser,
    home: tempfile::TempDir,
    page: &'a Path,
}

impl<'a> Sitting<'a> {
    fn new(browser: &'a Browser, page: &'a Path) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
        fs::write(home.path().join("page.html"), text + MEASURE)?;
        Ok(Self { browser, home, page })
    }

    fn measure(&self, width: u32, scheme: u8) -> Result<Measured> {
        fs::write(self.home.path().join("frame.html"), frame(width, 800))?;
        let document = self.browser.run(self.home.path(), [width, 800], scheme, &["--dump-dom"])?;
        said(&document).with_context(|| format!("{}: it is no page that a browser reads", self.page.display()))
    }

    fn picture(&self, width: u32, height: u32, scheme: u8, to: &Path) -> Result<()> {
        let height = height.min(HIGHEST);
        fs::write(self.home.path().join("frame.html"), frame(width, height))?;
        let whole = self.home.path().join("whole.png");
        self.browser.run(self.home.path(), [width, height], scheme, &[&format!("--screenshot={}", whole.display())])?;
        let drawn = image::open(&whole).with_context(|| format!("{}: it was not drawn", self.page.display()))?;
        drawn.crop_imm(0, 0, width, height).save(to).with_context(|| to.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_says_is_read_from_the_frame() {
        let document = "<html><pre id=\"said\" hidden=\"\">{\"width\":400,\"height\":9,\"dark\":true,\
            \"outside\":[\"td a &amp;lt; &lt;b&gt;\"]}</pre></html>";
        let expected = Measured { width: 400, height: 9, dark: true, outside: vec!["td a &lt; <b>".into()] };
        assert_eq!(said(document), Some(expected));
        assert_eq!(said("<pre id=\"said\" hidden=\"\"></pre>"), None);
    }

    #[test]
    fn a_browser_that_is_not_there_and_pages_of_one_name_are_told() {
        let home = tempfile::tempdir().unwrap();
        let page = home.path().join("report.html");
        fs::write(&page, "<p>x").unwrap();
        let args = |pages: Vec<PathBuf>| Args {
            pages,
            out: home.path().join("seen"),
            browser: Some(home.path().join("no-browser")),
        };
        let refused = |args: &Args| format!("{:#}", run(args).unwrap_err());
        assert!(refused(&args(vec![page.clone()])).contains("does not start"));
        assert!(refused(&args(vec![page.clone(), page.clone()])).contains("is called"));
        assert!(refused(&args(vec![home.path().join("absent.html")])).contains("absent.html"));
        fs::write(home.path().join("seen").join(format!("{}-390-dark.png", name(&page).unwrap())), "").unwrap();
        assert!(refused(&args(vec![page])).contains("it exists already"));
    }

    #[test]
    fn a_page_that_is_too_wide_is_found_where_there_is_a_browser() {
        let Ok(browser) = Browser::find(None) else { return println!("skipped: no browser is here") };
        let home = tempfile::tempdir().unwrap();
        let page = home.path().join("page.html");
        let start = "<!doctype html><meta name=\"color-scheme\" content=\"light dark\"><body style=\"margin:0\">";
        fs::write(&page, format!("{start}<div style=\"overflow-x:auto\"><p style=\"width:900px\">in</p></div>"))
            .unwrap();
        let sitting = Sitting::new(&browser, &page).unwrap();
        // Some browsers are confined to folders of their own.
        let Ok(found) = sitting.measure(390, 0) else { return println!("skipped: the browser here shows no page") };
        assert_eq!((found.width, found.dark, found.outside.len()), (390, true, 0), "{found:?}");
        fs::write(&page, format!("{start}<p style=\"width:400px\">out</p>")).unwrap();
        let sitting = Sitting::new(&browser, &page).unwrap();
        let found = sitting.measure(390, 1).unwrap();
        assert_eq!(
            (found.width, found.dark, &found.outside[..]),
            (400, false, &["p out".to_string()][..]),
            "{found:?}"
        );
        let picture = home.path().join("picture.png");
        sitting.picture(390, found.height, 0, &picture).unwrap();
        let drawn = image::open(&picture).unwrap().into_rgb8();
        assert_eq!(drawn.dimensions(), (390, found.height));
        // Dark ground.
        assert!(drawn.get_pixel(200, found.height - 1).0.iter().all(|&c| c < 64), "{:?}", drawn.get_pixel(200, 1));
    }
}
