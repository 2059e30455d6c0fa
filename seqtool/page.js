"use strict";
// What is drawn comes from the page's own JSON; it is only ever set as text.
const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

async function unpack() {
  const raw = Uint8Array.from(atob(byId("activations").textContent.trim()), c => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const quoted = text => "‘" + text.replaceAll("\n", "⏎") + "’";
const percent = part => Math.round(100 * part) + " %";

// A choice gives for each token how it is coloured: {values, low, high, name, about, peaks}.
function unitChoice(packed, panel, unit) {
  const [low, high] = data.ranges[unit], wide = Math.ceil(panel.tokens / 2), values = [];
  const start = panel.at + (unit - panel.first) * wide;
  for (let i = 0; i < panel.tokens; i++) {
    const byte = packed[start + (i >> 1)];
    values.push(low + (high - low) * (i % 2 ? byte >> 4 : byte & 15) / 15);
  }
  const signed = Math.min(-low, high) > 0.1 * (high - low);  // it is on both sides of zero
  return {values, low, high, signed, name: data.units[unit][0], about: data.units[unit][1],
    peaks: data.peaks[unit]};
}
function seriesChoice(series) {
  const high = series.high ?? Math.max(...series.values, 1e-9);
  return {...series, low: 0, high, signed: false};
}

// Let arrow keys and the pointer go from token to token.
function walk(box, spans, go, where) {
  box.addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity}[event.key];
    if (step === undefined || !spans.length) return;
    event.preventDefault();
    go(where() < 0 ? 0 : where() + step);
  });
  for (const kind of ["pointerover", "click"]) {
    box.addEventListener(kind, event => {
      const at = spans.indexOf(event.target);
      if (at >= 0) go(at);
    });
  }
}

function textPanel(packed, panel, number) {
  const part = name => byId(name + (number ? "-" + number : ""));
  const picker = part("unit"), spans = [...part("text").querySelectorAll("span")];
  let choice, here = -1;

  const paint = () => {
    const most = Math.max(Math.abs(choice.low), Math.abs(choice.high), 1e-9);
    spans.forEach((span, i) => {
      const value = choice.values[i];
      const height = (value - choice.low) / Math.max(choice.high - choice.low, 1e-9);
      const strength = choice.signed ? Math.abs(value) / most : height;
      span.style.setProperty("--a", strength.toFixed(3));
      span.style.setProperty("--h", height.toFixed(3));
      span.classList.toggle("low", choice.signed && value < 0);
    });
    part("low").textContent = choice.low.toFixed(2);
    part("high").textContent = choice.high.toFixed(2);
    part("legend").classList.toggle("plain", !choice.signed);
  };
  const around = i => quoted(spans.slice(Math.max(0, i - 8), i + 1).map(s => s.textContent).join(""));
  const describe = () => {
    const best = choice.peaks.map(around).join(", ");
    part("about").textContent = choice.about + " Highest after " + best + ".";
  };
  const read = () => {
    const parts = [quoted(spans[here].textContent) + ": " + choice.name + " " +
      choice.values[here].toFixed(2)];
    for (const series of panel.series) {
      if (series.name !== choice.name && !series.quiet) {
        parts.push(series.name + " " + series.values[here].toFixed(2));
      }
    }
    if (panel.said[here]) parts.push(panel.said[here]);
    const expected = panel.expected[here];
    if (expected) {
      const names = [];
      for (let k = 0; k < expected.length; k += 2) {
        names.push(quoted(data.spell[expected[k]]) + " " + percent(expected[k + 1]));
      }
      parts.push("expected here " + names.join(", "));
    }
    part("reading").textContent = parts.join("; ");
  };
  const go = to => {
    if (here >= 0) spans[here].classList.remove("here");
    here = Math.max(0, Math.min(spans.length - 1, to));
    spans[here].classList.add("here");
    spans[here].scrollIntoView({block: "nearest"});
    read();
  };
  const pick = () => {
    const [kind, index] = picker.value.split("-");
    choice = kind === "unit" ? unitChoice(packed, panel, Number(index))
      : seriesChoice(panel.series[index]);
    paint();
    describe();
    if (here >= 0) read();
  };
  const turn = by => {
    const count = picker.options.length;
    picker.selectedIndex = (picker.selectedIndex + by + count) % count;
    picker.dispatchEvent(new Event("change"));
  };

  const wanted = decodeURIComponent(location.hash).match(/^#mark=(.+)$/);
  if (wanted && [...picker.options].some(option => option.value === wanted[1])) {
    picker.value = wanted[1];
  }
  picker.addEventListener("change", () => {
    location.replace("#mark=" + picker.value);
    pick();
  });
  part("before").addEventListener("click", () => turn(-1));
  part("after").addEventListener("click", () => turn(1));
  walk(part("text"), spans, go, () => here);
  pick();
}

function slider() {
  const when = byId("when");
  if (!when) return;
  const show = () => {
    const now = Number(when.value);
    document.querySelectorAll("[id^='flow-']").forEach(group => {
      group.style.display = group.id.split("-")[1] === String(now) ? "" : "none";
    });
    byId("step").textContent = data.history[now];
    when.setAttribute("aria-valuetext", data.history[now]);
  };
  when.addEventListener("input", show);
  show();
}

function examples() {
  const picker = byId("example");
  if (!picker) return;
  const show = () => document.querySelectorAll(".example").forEach(figure => {
    figure.hidden = figure.id !== "example-" + picker.value;
  });
  picker.addEventListener("change", show);
  show();
}

function attention() {
  document.querySelectorAll(".look").forEach((box, number) => {
    const read = [...box.querySelectorAll(".source span")];
    const written = [...box.querySelectorAll(".target span")];
    let here = -1;
    const go = to => {
      if (here >= 0) written[here].classList.remove("here");
      here = Math.max(0, Math.min(written.length - 1, to));
      written[here].classList.add("here");
      const weights = data.attention[number][here];
      read.forEach((span, i) => {
        span.style.setProperty("--a", weights[i]);
        span.style.setProperty("--h", weights[i]);
      });
      const best = weights.map((weight, i) => [weight, i]).sort((a, b) => b[0] - a[0]).slice(0, 3);
      const end = Math.max(0, 1 - weights.reduce((sum, weight) => sum + weight, 0));
      box.querySelector(".said").textContent = quoted(written[here].textContent) + " looks at " +
        best.map(([weight, i]) => quoted(read[i].textContent) + " " + percent(weight)).join(", ") +
        ", at the end " + percent(end);
    };
    walk(box.querySelector(".target"), written, go, () => here);
    if (written.length) go(0);
  });
}

slider();
examples();
attention();
(async () => {
  const packed = data.ranges.length ? await unpack() : null;
  data.panels.forEach((panel, number) => textPanel(packed, panel, number));
  document.documentElement.dataset.ready = "yes";
})();
