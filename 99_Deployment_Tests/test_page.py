"""The page in a real browser: a 7 is drawn and read, by pointer and by keyboard; a picture; a text; widths, schemes, focus."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest

from shared.deployment import classify, digit_pixels, load_model, photo_pixels, read_picture

for package in ("PIL", "fastapi", "uvicorn", "playwright"):
    pytest.importorskip(package, reason=f"needs {package}: pip install -e '.[test]'")
service = pytest.importorskip("shared.service")
load = pytest.importorskip("shared.benchmarks.service")
Image = pytest.importorskip("PIL.Image")
browsing = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
PATIENCE = 180_000  # milliseconds, on a busy machine

browsing.expect.set_options(timeout=PATIENCE)
chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
expect = browsing.expect


@pytest.fixture(scope="module")
def origin():
    with load.running_service("--seconds", 600, "--model", "shakespeare_small") as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser():
    with browsing.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, origin):
    """A function that opens the page; afterwards no error must stand in the console, and no request have left the origin.

    `may_say` is a pattern for what the browser itself says of a request that the test lets fail. It says so at a time of its
    own, often after the page has shown its own words, so it is looked at only at the end.
    """
    contexts, said, asked, allowed = [], [], [], set()

    def open_page(width=1200, may_say="(?!)", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        contexts.append(context)
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        allowed.add(may_say)
        page.goto(origin)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in said if not any(re.search(pattern, text) for pattern in allowed)] == []
    assert asked and all(url.startswith((f"{origin}/", "data:")) for url in asked), asked


def draw(page, *points):
    """Draw a line through points, on paper of 280 x 280, with the pointer."""
    page.locator("#paper").scroll_into_view_if_needed()
    box = page.locator("#paper").bounding_box()
    place = [(box["x"] + x * box["width"] / 280, box["y"] + y * box["height"] / 280) for x, y in points]
    page.mouse.move(*place[0])
    page.mouse.down()
    for x, y in place[1:]:
        page.mouse.move(x, y, steps=4)
    page.mouse.up()


SEVEN = (75, 60), (140, 58), (205, 62), (170, 140), (140, 230)


def pixels(page, selector):
    """The pixels of a canvas, (H, W, 4)."""
    address = page.locator(selector).evaluate("canvas => canvas.toDataURL()")
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))


LISTEN = """() => {
    const real = window.fetch;
    window.sent = [];
    window.fetch = async (path, options) => {
        const bytes = new Uint8Array(await new Response(options?.body).arrayBuffer());
        const entry = [path, btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join("")), ""];
        sent.push(entry);
        const answer = await real(path, options);
        answer.clone().text().then((text) => { entry[2] = text; }, () => {});
        return answer;
    };
}"""


def listen(page, path):
    """A function that returns the bodies which the page has sent to a path since now; the browser itself keeps no blobs."""
    page.evaluate(LISTEN)
    return lambda: [base64.b64decode(body) for asked, body, _ in page.evaluate("() => sent") if asked == path]


def on_map(values, page):
    """Numbers from 0 to 1 in the colours of the page's maps: (..., 3)."""
    low, high = (np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)]) for name in page.evaluate(
        "() => ['--map-low', '--map-high'].map(n => getComputedStyle(document.documentElement).getPropertyValue(n).trim())"))
    return low + values[..., None] * (high - low)


def inked(picture):
    """The smallest rectangle around what is dark in a picture, the bytes of a file: left, top, right, bottom."""
    rows, columns = (np.flatnonzero((read_picture(picture)[..., 0] < 128).any(axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@chromium
def test_a_seven_that_is_drawn_is_read(opened):
    page = opened()
    expect(page.locator("#digit-status")).to_have_text("Nothing drawn yet.")
    blank = {layer: pixels(page, f"[data-layer='{layer}']") for layer in (0, 2, 4)}
    draw(page, *SEVEN)
    expect(page.locator("#digit-status")).to_have_text(re.compile(r"^Read as 7, \d+\.\d %\.$"))
    expect(page.locator("#digit-answer")).to_have_text("7")
    assert page.locator("#digit-bars .best .name").all_inner_texts() == ["7"]
    shares = [float(text.split()[0]) for text in page.locator("#digit-bars .value").all_inner_texts()]
    assert len(shares) == 10 and np.argmax(shares) == 7 and sum(shares) == pytest.approx(100, abs=0.6)
    lengths = page.locator("#digit-bars .bar").evaluate_all("bars => bars.map(b => b.style.transform)")
    assert [float(length[7:-1]) for length in lengths] == pytest.approx([share / 100 for share in shares], abs=1e-3)
    for layer, before in blank.items():
        after = pixels(page, f"[data-layer='{layer}']")
        assert after.shape == before.shape and (after != before).any(), layer
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#digit-status")).to_have_text("Nothing drawn yet.")
    assert np.array_equal(pixels(page, "[data-layer='0']"), blank[0])


@chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_maps_show_what_the_network_computes(opened, scheme):
    """Each map in its place, upright and in the page's colours, which follow when the scheme changes."""
    page = opened(color_scheme={"light": "dark", "dark": "light"}[scheme])
    sent = listen(page, "/api/digit")
    draw(page, *SEVEN)
    expect(page.locator("#digit-status")).to_have_text(re.compile("^Read as 7"))
    page.wait_for_function("() => !latest.busy")  # the last state of the paper is read
    page.emulate_media(color_scheme=scheme)
    picture, stored = read_picture(sent()[-1]), load_model("mnist_cnn")
    page.wait_for_function("low => getComputedStyle(document.documentElement).getPropertyValue('--map-low') === low",
                           arg={"light": "#ffffff", "dark": "#141617"}[scheme])
    np.testing.assert_allclose(pixels(page, "#seen")[..., :3], on_map(digit_pixels(picture)[0, 0], page), atol=2)
    maps = service.feature_maps(stored.model, stored.prepare(picture))
    for layer in (0, 2, 4):
        shown, (count, height, width) = pixels(page, f"[data-layer='{layer}']"), maps[layer].shape
        columns = min(16, count // 4)
        assert shown.shape[:2] == (count // columns * (height + 1) - 1, columns * (width + 1) - 1)
        for k in (0, 1, columns, count - 1):
            row, column = divmod(k, columns)
            part = shown[row * (height + 1) :, column * (width + 1) :][:height, :width, :3]
            np.testing.assert_allclose(part, on_map(maps[layer][k] / maps[layer].max(), page), atol=2)


@chromium
def test_undo_takes_back_the_last_line_and_clear_all(opened):
    page = opened()
    sent = listen(page, "/api/digit")
    status, empty = page.locator("#digit-status"), "Nothing drawn yet."
    page.evaluate("() => { document.documentElement.style.fontSize = '24px'; }")  # for larger letters the paper grows, too
    draw(page, (100, 60), (100, 200))
    draw(page, (180, 60), (180, 200))
    expect(status).to_have_text(re.compile("^Read as"))
    page.wait_for_function("() => !latest.busy")
    assert inked(sent()[-1]) == pytest.approx([90, 50, 190, 210], abs=1)
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("() => !latest.busy")
    assert inked(sent()[-1]) == pytest.approx([90, 50, 110, 210], abs=1)
    page.get_by_role("button", name="Clear").click()
    expect(status).to_have_text(empty)
    expect(page.get_by_role("button", name="Clear")).to_be_disabled()
    draw(page, *SEVEN)
    expect(status).to_have_text(re.compile("^Read as 7"))
    page.focus("#paper")
    page.keyboard.press("Delete")
    expect(status).to_have_text(empty)


@chromium
def test_the_keyboards_pen_moves_as_far_as_it_should(opened):
    """Eight pixels a key, slantwise with two held, from the middle, no further than the edge; leaving lifts the pen."""
    page = opened()
    sent = listen(page, "/api/digit")

    def drawn():
        page.wait_for_function("() => strokes.length && !latest.busy")
        box = inked(sent()[-1])
        return [box[0] + 10, box[1] + 10, box[2] - 10, box[3] - 10]  # without the half of the pen's width

    page.focus("#paper")
    page.keyboard.press(" ")
    for key in ["ArrowRight"] * 4 + ["ArrowUp"] * 3:
        page.keyboard.press(key)
    assert drawn() == pytest.approx([140, 116, 172, 140], abs=1)
    page.keyboard.down("ArrowDown")
    page.keyboard.down("ArrowLeft")
    page.keyboard.up("ArrowDown")
    page.keyboard.up("ArrowLeft")
    assert page.evaluate("() => pen") == {"x": 164, "y": 132}  # one down, then one slantwise
    for _ in range(20):
        page.keyboard.press("ArrowDown")
    assert drawn() == pytest.approx([140, 116, 172, 268], abs=1)
    page.keyboard.press("Tab")
    page.focus("#paper")
    page.keyboard.press("ArrowLeft")  # the pen is up again, and draws nothing
    page.keyboard.press(" ")
    page.keyboard.press(" ")
    page.wait_for_function("() => strokes.length === 2 && !latest.busy")
    assert page.evaluate("() => [strokes[0].at(-1), strokes[1]]") == [{"x": 164, "y": 268}, [{"x": 156, "y": 268}]]


@chromium
def test_what_is_drawn_while_an_answer_is_awaited_is_read_too(opened):
    page, held = opened(), []
    sent = listen(page, "/api/digit")
    page.route("**/api/digit", lambda route: route.continue_() if held else held.append(route))
    draw(page, (100, 60), (100, 200))
    while not held:
        page.wait_for_timeout(50)
    draw(page, (180, 60), (180, 200))
    held[0].continue_()
    page.wait_for_function("() => !latest.busy")
    assert inked(sent()[-1]) == pytest.approx([90, 50, 190, 210], abs=1)


@chromium
def test_a_seven_is_drawn_with_the_keyboard(opened):
    page = opened()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "paper":
            break
    page.keyboard.press("Delete")  # clears, and needs nothing to be there
    for key in ["ArrowLeft"] * 8 + ["ArrowUp"] * 10 + [" "] + ["ArrowRight"] * 16:
        page.keyboard.press(key)
    page.keyboard.down("ArrowDown")
    for _ in range(9):  # with both held down the pen goes slantwise
        page.keyboard.down("ArrowLeft")
    page.keyboard.up("ArrowLeft")
    for _ in range(11):
        page.keyboard.down("ArrowDown")
    page.keyboard.up("ArrowDown")
    page.keyboard.press(" ")
    expect(page.locator("#digit-status")).to_have_text(re.compile("^Read as 7, "))
    page.keyboard.press("Control+z")
    expect(page.locator("#digit-status")).to_have_text("Nothing drawn yet.")


@chromium
def test_a_picture_is_looked_at(opened, tmp_path):
    page, taken = opened(), re.compile(r"^It takes this for: [a-z]+, \d+\.\d %\.$")
    page.get_by_role("button", name="Take a painted ship").click()
    expect(page.locator("#photo-status")).to_have_text(taken)
    seen, salient = pixels(page, "#small"), pixels(page, "#salient")
    assert seen.shape == (32, 32, 4) and (seen[2, 16, :3] > 120).all() and seen[30, 16, 2] > seen[30, 16, 0]  # sky, and sea
    orange = (salient[..., 0].astype(int) - salient[..., 2]) > 120
    assert orange.any() and not orange.all()
    (tmp_path / "grey.png").write_bytes(load.png(np.full((700, 900, 3), 128, np.uint8)))
    with page.expect_response("**/api/photo"):
        page.set_input_files("#file", tmp_path / "grey.png")
    expect(page.locator("#photo-status")).to_have_text(taken)
    assert (pixels(page, "#small")[..., :3] == 128).all()
    (tmp_path / "text.png").write_text("To be or not to be")
    page.set_input_files("#file", tmp_path / "text.png")
    expect(page.locator("#photo-status")).to_have_text("text.png cannot be read as a picture.")


@chromium
def test_a_picture_is_made_small_and_laid_on_white(opened, tmp_path):
    """Nothing larger than the network needs has to travel, and what is transparent is not black."""
    page = opened()
    sent = listen(page, "/api/photo")
    glass = np.zeros((700, 1400, 4), np.uint8)
    glass[:, :700] = (200, 30, 60, 255)
    Image.fromarray(glass).save(tmp_path / "glass.png")
    with page.expect_response("**/api/photo"):
        page.set_input_files("#file", tmp_path / "glass.png")
    picture = read_picture(sent()[0])
    assert picture.shape == (512, 1024, 3)
    np.testing.assert_allclose(picture[256, [100, 900]], [[200, 30, 60], [255, 255, 255]], atol=1)
    expect(page.locator("#photo-status")).to_have_text(re.compile("^It takes this for"))
    stored = load_model("cifar10_cnn")
    small = 255 * photo_pixels(picture)[0].transpose(1, 2, 0)
    np.testing.assert_allclose(pixels(page, "#small")[..., :3], small, atol=1)
    heat = service.saliency(stored.model, stored.prepare(picture))
    share = (heat / heat.max())[..., None] ** 0.7
    shown = 0.75 * (small @ [0.3, 0.59, 0.11])[..., None] * (1 - share) + np.array([230, 159, 0]) * share
    np.testing.assert_allclose(pixels(page, "#salient")[..., :3], shown, atol=6)  # a byte of heat in 255 is up to 5 of colour
    answer = classify(stored, [picture])[0]
    shares = [float(text.split()[0]) for text in page.locator("#photo-bars .value").all_inner_texts()]
    np.testing.assert_allclose(shares, 100 * answer, atol=0.06)
    names = page.locator("#photo-bars .name").all_inner_texts()
    assert f"this for: {names[answer.argmax()]}," in page.locator("#photo-status").inner_text()


GIVE = """([kind, type]) => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 40;
    return new Promise(done => canvas.toBlob(blob => {
        const data = new DataTransfer();
        data.items.add(new File([blob], 'a.png', { type }));
        const event = kind === 'drop' ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent('paste', { clipboardData: data, bubbles: true });
        document.getElementById('drop').dispatchEvent(event);
        done(event.defaultPrevented);
    }));
}"""


@chromium
@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_can_be_dropped_or_pasted(opened, kind):
    page = opened()
    with page.expect_response("**/api/photo") as answered:
        prevented = page.evaluate(GIVE, [kind, "image/png"])
    assert answered.value.status == 200 and prevented == (kind == "drop")  # else the browser would leave the page for it
    expect(page.locator("#photo-status")).to_have_text(re.compile("^It takes this for"))


@chromium
def test_what_the_sliders_say_is_sent_and_what_comes_is_shown(opened):
    """The request; then, for a character, the numbers that the service sent with it: of all heads, and of one."""
    page = opened()
    sent = listen(page, "/api/generate")
    page.fill("#prompt", "JULIET:\n")
    for slider, value in (("temperature", "1.2"), ("top-k", "7"), ("tokens", "40")):
        page.fill(f"#{slider}", value)
    expect(page.locator("#temperature-shown")).to_have_text("1.20")
    expect(page.locator("#top-k-shown")).to_have_text("7")
    expect(page.locator("#tokens-shown")).to_have_text("40")
    page.press("#prompt", "Control+Enter")
    expect(page.locator("#writer-status")).to_have_text("Done, 40 characters.")
    assert json.loads(sent()[0]) == {"prompt": "JULIET:\n", "temperature": 1.2, "top_k": 7, "tokens": 40, "attention": "all"}
    _, *tokens, _ = map(json.loads, page.evaluate("() => sent[0][2]").splitlines())
    text = "JULIET:\n" + "".join(token["text"] for token in tokens)
    assert page.locator("#text").evaluate("e => e.textContent") == text
    chosen = next(i for i in range(25, 40) if tokens[i]["text"].strip())  # the end of a line cannot be clicked
    token, place = tokens[chosen], 8 + chosen
    thousandths = np.array(token["attention"]["thousandths"])  # (blocks, heads, characters)
    page.locator("#text span").nth(place).click()
    page.mouse.move(0, 0)  # away, lest another character slides under the pointer
    for block, head, rows in [(0, 0, thousandths), (0, 2, thousandths[:, 1:2]), (3, 0, thousandths[2:3]),
                              (3, 2, thousandths[2:3, 1:2])]:  # places in the lists, where the first one is "all"
        row = rows.sum((0, 1))  # whole numbers, so that equal ones are equal here and there
        page.select_option("#block", index=block)
        page.select_option("#head", index=head)
        marked = page.locator("#text span").evaluate_all("all => all.map(e => +e.style.getPropertyValue('--share'))")
        np.testing.assert_allclose(marked, [*(row / row.max()), *[0] * (len(text) - len(row))], atol=1e-3)
        told = page.locator("#chosen").inner_text()
        numbers = [float(number) for number in re.findall(r"([\d.]+) %", told)]
        np.testing.assert_allclose(numbers, [100 * token["probability"], row.max() / rows[..., 0].size / 10], atol=0.1)
        assert told.endswith(f", {place - row.argmax()} back.")
    likely = page.locator("#likely li").evaluate_all("all => all.map(e => [...e.children].map(c => c.textContent))")
    shown = {"\n": "↵", " ": "␣"}
    assert [name for name, _, _ in likely] == [shown.get(name, name) for name, _ in token["likely"]]
    np.testing.assert_allclose([float(share[:-2]) for _, _, share in likely], [100 * p for _, p in token["likely"]], atol=0.1)
    page.fill("#top-k", "40")
    expect(page.locator("#top-k-shown")).to_have_text("all")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("#writer-status")).to_have_text("Done, 40 characters.")
    assert json.loads(sent()[1])["top_k"] is None


@chromium
def test_a_busy_service_is_asked_again(opened):
    page, refused = opened(may_say="^Failed to load resource: .* 503"), []

    def busy(route):
        if refused:
            return route.continue_()
        refused.append(route)
        return route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "busy"})

    page.route("**/api/photo", busy)
    page.get_by_role("button", name="Take a painted ship").click()
    expect(page.locator("#photo-status")).to_have_text(re.compile("^It takes this for"))
    assert len(refused) == 1


@chromium
def test_a_text_that_breaks_off_is_no_finished_text(opened):
    page = opened()
    start = {"event": "start", "model": "m", "context": 8, "blocks": 1, "heads": 1, "prompt": ["A"]}
    page.route("**/api/generate", lambda route: route.fulfill(status=200, body=json.dumps(start) + "\n"))
    page.get_by_role("button", name="Write").click()
    expect(page.locator("#writer-status")).to_have_text("The text broke off.")
    expect(page.get_by_role("button", name="Write")).to_be_enabled()


@chromium
def test_a_text_is_written_and_looked_into(opened):
    page = opened()
    page.fill("#prompt", "JULIET:\n")
    for slider in ("#temperature", "#tokens"):
        page.focus(slider)
        page.keyboard.press("Home")
    expect(page.locator("#temperature-shown")).to_have_text("0, always the likeliest")
    texts = []
    for _ in range(2):
        page.locator("#writer-status").evaluate("e => { e.textContent = ''; }")  # a new end is to be seen
        page.get_by_role("button", name="Write").click()
        expect(page.locator("#writer-status")).to_have_text("Done, 20 characters.")
        texts.append(page.locator("#text").evaluate("e => e.textContent"))
    assert texts[0] == texts[1] and texts[0].startswith("JULIET:\n") and len(texts[0]) == 28

    shares = "spans => spans.map(s => s.style.getPropertyValue('--share'))"
    page.locator("#text span").nth(12).hover()
    expect(page.locator("#chosen")).to_have_text(re.compile(r"drawn with probability 100\.0 %.*looked most, \d+\.\d %"))
    marked = page.locator("#text span").evaluate_all(shares)
    assert max(map(float, marked[:12])) == 1 and set(marked[12:]) == {""}  # nothing that came later was seen
    page.select_option("#block", "0")
    page.select_option("#head", "2")
    assert page.locator("#text span").evaluate_all(shares) != marked
    page.focus("#text")
    page.keyboard.press("ArrowLeft")
    assert "chosen" in page.locator("#text span").nth(11).get_attribute("class")
    page.keyboard.press("Home")
    expect(page.locator("#chosen")).to_have_text(re.compile("^“J”: part of the beginning"))
    assert page.locator("#likely li").count() == 0  # the model had no choice there


@chromium
def test_writing_can_be_stopped(opened):
    page = opened()
    page.focus("#tokens")
    page.keyboard.press("End")
    page.get_by_role("button", name="Write").click()
    page.locator("#text span").nth(10).wait_for()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#writer-status")).to_have_text("Stopped.")
    assert page.locator("#text span").count() < 600
    expect(page.get_by_role("button", name="Write")).to_be_enabled()


@chromium
def test_what_goes_wrong_is_said(opened):
    page = opened(may_say="^Failed to load resource: (.* 422|net::ERR_INTERNET_DISCONNECTED)")
    page.fill("#prompt", "Où")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("#writer-status")).to_have_text(re.compile("'ù' at position 1"))
    page.context.set_offline(True)
    draw(page, *SEVEN)
    expect(page.locator("#digit-status")).to_have_text("The service does not answer. Is it still running?")
    assert "problem" in page.locator("#digit-status").get_attribute("class")


@chromium
@pytest.mark.parametrize("width", [320, 360, 800])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened(width, has_touch=True)
    page.fill("#prompt", "W" * 300)
    page.focus("#tokens")
    page.keyboard.press("Home")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("#writer-status")).to_have_text("Done, 20 characters.")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    boxes = page.locator("button, input:not([type=file]), select, textarea, canvas").evaluate_all(
        "all => all.map(e => [e.id, e.getBoundingClientRect().left, e.getBoundingClientRect().right])")
    assert len(boxes) > 15 and all(left >= 0 and right <= width for _, left, right in boxes), boxes


@chromium
def test_everything_is_reached_with_the_tab_key_and_the_focus_is_seen(opened):
    page, reached = opened(), {}
    for _ in range(40):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e.id === 'file' ? e.nextElementSibling : e);"
            " return [e.id || e.textContent, s.outlineStyle !== 'none' && parseFloat(s.outlineWidth)]; }")
        reached[name] = outline
    assert {"Read a digit", "paper", "file", "painted", "prompt", "temperature", "top-k", "tokens", "write", "text", "block",
            "head"} <= set(reached)
    assert all(outline >= 2 for name, outline in reached.items() if name and name in reached and len(name) < 30), reached


@chromium
def test_wishes_of_the_system_are_followed(opened):
    page = opened(color_scheme="dark", reduced_motion="reduce")
    red, green, blue = map(int, re.findall(r"\d+", page.evaluate("() => getComputedStyle(document.body).backgroundColor"))[:3])
    assert max(red, green, blue) < 40
    assert page.locator("#digit-bars .bar").first.evaluate("e => getComputedStyle(e).transitionDuration") in ("0s", "none")
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(251, 250, 248)"
    assert page.locator("#digit-bars .bar").first.evaluate("e => getComputedStyle(e).transitionDuration") == "0.15s"


# ---- contrast, by the colours that the page defines; no browser is needed ----


def luminance(colour):
    """The relative luminance of a colour, three numbers from 0 to 255 (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(colour) / 255]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def contrast(one, other):
    """The contrast of two colours, from 1 to 21."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def colours(block):
    """The colours that a block of styles defines: name to three numbers."""
    found = re.findall(r"--([\w-]+): #([0-9a-f]{6})", block)
    return {name: [int(value[i : i + 2], 16) for i in (0, 2, 4)] for name, value in found}


def test_contrast_is_measured_rightly():
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([119, 119, 119], [255, 255, 255]) == pytest.approx(4.48, abs=0.01)  # the well-known grey that just fails


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_for_weak_eyes(scheme):
    """WCAG 2.2, level AA: 4.5 for text, 3 for the edges of controls."""
    light, dark = re.findall(r":root \{(.*?)\}", service.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    block = {"light": light, "dark": dark}[scheme]
    of = colours(block)
    for text, ground in [("text", "ground"), ("text", "surface"), ("quiet", "ground"), ("quiet", "surface"), ("blue", "ground"),
                         ("blue", "surface"), ("on-blue", "blue"), ("error", "ground")]:
        assert contrast(of[text], of[ground]) >= 4.5, (text, ground)
    assert contrast(of["control"], of["ground"]) >= 3 and contrast(of["control"], of["surface"]) >= 3
    orange = [int(c) for c in re.search(r"--orange: (\d+) (\d+) (\d+)", block).groups()]
    share = float(re.search(r"--shade: ([\d.]+)", block)[1])
    shaded = share * np.array(orange) + (1 - share) * np.array(of["surface"])
    assert contrast(of["text"], shaded) >= 4.5  # a character that the model looks at most
