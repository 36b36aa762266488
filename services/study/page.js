"use strict";
// The server knows where the rater is; the page shows that, and sends one word at a time. All words may be sent twice.
const $ = id => document.getElementById(id);
const SIDES = ["left", "right"], QUESTIONS = ["audio", "video", "sync"];
const key = location.hash.slice(1);
const video = { left: $("left").querySelector("video"), right: $("right").querySelector("video") };
const button = { left: $("left").querySelector("button"), right: $("right").querySelector("button") };
const DRIFT_S = 0.06;  // more than this, and the silent clip is put where the sounding one is
const SILENCE = "The server does not answer. Nothing is lost: stay on this page, it goes on trying.";

let now = null;        // the sitting as the server told it last
let shown = "";        // which page is drawn
let sounding = null;   // side whose sound is on
let tone = null;
let queue = Promise.resolve();

// Talking to the server

async function ask(path, method = "GET", body = undefined) {
  const headers = { Authorization: `Bearer ${key}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  for (let pause = 300; ; pause = Math.min(2 * pause, 4000)) {
    try {
      const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
      if (answer.status < 500) {
        if ($("trouble").textContent === SILENCE) trouble("");
        if (answer.ok) return answer;
        const problem = await answer.json();
        throw Object.assign(new Error(problem.detail), { status: answer.status });
      }
    } catch (error) {
      if (error.status) throw error;
    }
    trouble(SILENCE);
    await new Promise(done => setTimeout(done, pause));
  }
}

function send(path, method, body) {  // one after the other, in the order of the clicks
  queue = queue.then(async () => draw(await (await ask(path, method, body)).json())).catch(failed);
  return queue;
}

function failed(error) {
  if (error.status === 401) return message("This link does not work", error.message);
  trouble(error.message);
  return refresh();
}

async function refresh() {
  try {
    draw(await (await ask("api/sitting")).json());
  } catch (error) {
    if (error.status === 401) message("This link does not work", error.message);
    else trouble(error.message);
  }
}

// Drawing

function trouble(words) {
  $("trouble").hidden = !words;
  $("trouble").textContent = words;
}

function section(name) {
  for (const other of ["wait", "message", "tones", "trial"]) $(other).hidden = other !== name;
}

function message(title, text) {
  section("message");
  $("message-title").textContent = title;
  $("message-text").textContent = text;
  $("message-title").focus();
}

function draw(sitting) {
  now = sitting;
  const page = `${sitting.stage}/${sitting.attempt}/${sitting.round}/${sitting.trial ? sitting.trial.number : 0}`;
  const fresh = page !== shown;
  shown = page;
  if (fresh) trouble("");
  $("bar").hidden = sitting.stage !== "trials";
  if (sitting.stage !== "trials") $("place").textContent = "";
  if (sitting.stage === "tones" && fresh) drawTones();
  if (sitting.stage === "trials") drawTrial(fresh);
  if (sitting.stage === "done" && fresh) message("Done. Thank you!", "All your answers are saved. You can close this page.");
  if (sitting.stage === "refused" && fresh) {
    message("Thank you for trying", "This study needs headphones, and the tones did not sound as they do in them.");
  }
}

// Headphones

function drawTones() {
  section("tones");
  $("welcome").hidden = now.round > 1 || now.attempt > 1;
  $("again").hidden = now.round > 1 || now.attempt === 1;
  $("minutes").textContent = `${Math.max(2, Math.ceil(now.trials * (2 * now.seconds + 12) / 60 + 1))} minutes`;
  $("place").textContent = `Headphones, ${now.round} of 6`;
  for (const each of $("tones-answers").children) each.disabled = true;
  $("tones-play").disabled = false;
  $("tones-play").focus();
}

async function playTones() {
  $("tones-play").disabled = true;
  const page = shown;
  try {
    const url = URL.createObjectURL(await (await ask("api/tones")).blob());
    if (tone) { tone.pause(); URL.revokeObjectURL(tone.src); }
    tone = new Audio(url);
    tone.addEventListener("ended", () => {
      if (page !== shown) return;
      for (const each of $("tones-answers").children) each.disabled = false;
      $("tones-play").disabled = false;
    });
    await tone.play();
  } catch (error) {
    $("tones-play").disabled = false;
    if (error.status) failed(error);
    else trouble("Your browser did not play the tones. Press the button again.");
  }
}

function answerTones(answer) {
  for (const each of $("tones-answers").children) each.disabled = true;
  send("api/tones", "POST", { attempt: now.attempt, round: now.round, answer });
}

// Clips

function drawTrial(fresh) {
  const trial = now.trial;
  if (fresh) {
    section("trial");
    $("place").textContent = `Pair ${trial.number} of ${now.trials}`;
    $("bar").max = now.trials;
    $("bar").value = trial.number - 1;
    for (const radio of document.querySelectorAll("#questions input")) radio.checked = trial.votes[radio.name] === radio.value;
    $("saved").textContent = "";
    scrollTo(0, 0);
    load(trial);
  }
  const heard = trial.heard[0] && trial.heard[1];
  SIDES.forEach((side, index) => $(side).classList.toggle("heard", trial.heard[index]));
  for (const name of QUESTIONS) $(name).disabled = !heard;
  $("next").disabled = !heard || QUESTIONS.some(name => !trial.votes[name]);
  if (fresh || heard || !sounding) hint();
}

function hint() {
  const [left, right] = now.trial.heard;
  $("hint").textContent = left && right ? "Play them again as often as you like."
    : left ? "Now play both once more, with the sound of B."
    : right ? "Now play both once more, with the sound of A."
    : "Both pictures play together, with one sound. Play them to the end with each.";
}

async function load(trial) {
  quiet();
  for (const side of SIDES) {
    button[side].disabled = true;
    if (video[side].src) URL.revokeObjectURL(video[side].src);
    video[side].removeAttribute("src");
  }
  try {
    const clips = await Promise.all(trial.tokens.map(async token => (await ask(`api/clips/${token}`)).blob()));
    if (!now.trial || now.trial.number !== trial.number) return;
    await Promise.all(SIDES.map((side, index) => new Promise((ready, wrong) => {
      video[side].oncanplaythrough = ready;
      video[side].onerror = () => wrong(new Error("Your browser cannot play this clip."));
      video[side].src = URL.createObjectURL(clips[index]);
      video[side].load();
    })));
    for (const side of SIDES) button[side].disabled = false;
    button.left.focus({ preventScroll: true });
  } catch (error) {
    if (error.status === 404) refresh();  // another tab went on meanwhile
    else trouble(error.message);
  }
}

function quiet() {
  sounding = null;
  for (const side of SIDES) { video[side].pause(); video[side].muted = true; $(side).classList.remove("sounding"); }
}

async function play(side) {  // both from the start, with one sound
  if (button[side].disabled) return;
  trouble("");
  quiet();
  sounding = side;
  $(side).classList.add("sounding");
  video[side].muted = false;
  for (const each of SIDES) video[each].currentTime = 0;
  try {
    await Promise.all(SIDES.map(each => video[each].play()));
    requestAnimationFrame(together);
  } catch (error) {
    if (error.name !== "AbortError") trouble("Your browser did not play the clips. Press the button again.");
  }
}

function together() {
  if (!sounding) return;
  const leads = video[sounding], follows = video[sounding === "left" ? "right" : "left"];
  if (leads.ended || leads.paused) return;
  if (Math.abs(leads.currentTime - follows.currentTime) > DRIFT_S && !follows.ended && !follows.seeking) {
    follows.currentTime = leads.currentTime;
  }
  requestAnimationFrame(together);
}

function pauseOrGo() {
  if (!sounding || video[sounding].ended) return;
  if (!video[sounding].paused) { for (const side of SIDES) video[side].pause(); return; }
  for (const side of SIDES) if (!video[side].ended) video[side].play().catch(() => {});
  requestAnimationFrame(together);
}

for (const side of SIDES) {
  button[side].addEventListener("click", () => play(side));
  video[side].addEventListener("click", pauseOrGo);
  video[side].addEventListener("ended", () => {
    if (sounding !== side) return;
    sounding = null;
    $(side).classList.remove("sounding");
    if (!now.trial.heard[SIDES.indexOf(side)]) send(`api/trials/${now.trial.number}/heard`, "PUT", { side });
  });
}

// Answers

$("questions").addEventListener("change", async event => {
  const { name, value } = event.target;
  const number = now.trial.number;
  $("saved").textContent = "Saving…";
  $("next").disabled = true;
  await send(`api/trials/${number}/votes/${name}`, "PUT", { answer: value });
  $("saved").textContent = now.trial && now.trial.votes[name] === value ? "Saved" : "";
});

$("questions").addEventListener("submit", event => {
  event.preventDefault();
  if ($("next").disabled) return;
  $("next").disabled = true;
  send(`api/trials/${now.trial.number}/close`, "POST");
});

$("tones-play").addEventListener("click", playTones);
for (const each of $("tones-answers").children) {
  each.addEventListener("click", () => answerTones(Number(each.dataset.answer)));
}

// Keys

addEventListener("keydown", event => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !now) return;
  const typed = event.key.toLowerCase();
  if (now.stage === "tones") {
    const answer = $("tones-answers").children["123".indexOf(typed)];
    if (typed === "p" && !$("tones-play").disabled) playTones();
    else if (answer && !answer.disabled) answerTones(Number(answer.dataset.answer));
  } else if (now.stage === "trials") {
    const place = "123456789".indexOf(typed);
    if (typed === "a") play("left");
    else if (typed === "b") play("right");
    else if (typed === " " && event.target.tagName !== "BUTTON") { event.preventDefault(); pauseOrGo(); }
    else if (typed === "enter" && event.target.tagName === "BODY") $("questions").requestSubmit();
    else if (place >= 0) choose(QUESTIONS[Math.floor(place / 3)], place % 3);
  }
});

function choose(name, place) {
  if ($(name).disabled) return;
  const radio = $(name).querySelectorAll("input")[place];
  radio.focus();  // so that Enter goes on
  if (!radio.checked) radio.click();
}

document.addEventListener("visibilitychange", () => { if (document.hidden && sounding && !video[sounding].paused) pauseOrGo(); });
addEventListener("pageshow", event => { if (event.persisted) refresh(); });  // came back with the back button
addEventListener("hashchange", () => location.reload());

if (key) refresh();
else message("Your link is not whole", "Open the link you were sent, with everything after the # sign.");
