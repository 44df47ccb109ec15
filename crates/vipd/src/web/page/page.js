// The cluster as one picture, from /status.json of the vipd that served this page. It asks and shows, and can change nothing.
"use strict";

// How often it asks, in milliseconds; how long it waits for an answer; how old another node's word may be to count as now.
const INTERVAL = 250, PATIENCE = 2000, LATELY = 1500;
// Samples of a sparkline: two minutes.
const SAMPLES = 480;

const history = new Map();
let answered = null;

const $ = (id) => document.getElementById(id);

// What vipd tells is text, never markup.
function make(tag, classes, ...content) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...content.filter((part) => part !== null && part !== ""));
  return element;
}

function ago(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 1) return `${Math.round(ms)} ms`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

const bare = (address) => address.split("/")[0];

// All nodes by name: what each said of itself, and whether that is lately enough to be so.
function nodesOf(status) {
  const nodes = [{ name: status.node, status, told: 0, fresh: true }];
  for (const [name, other] of Object.entries(status.others ?? {})) {
    nodes.push({ name, status: other.status, told: other.told_ms, fresh: other.told_ms <= LATELY });
  }
  // Peers that have said nothing of themselves yet.
  for (const peer of status.owners.flatMap((owner) => owner.peers)) {
    if (!nodes.some((node) => node.name === peer.id)) nodes.push({ name: peer.id, status: null, told: peer.heard_ms, fresh: false });
  }
  return nodes.sort((a, b) => (a.name < b.name ? -1 : 1));
}

const seatOf = (node, owner) => node.status?.owners.find((seat) => seat.addresses.join() === owner.addresses.join());

// Who has the addresses: the one that leads, by its own word that it has them. The word of another that had them before it fell silent counts
// no more, but one that says so after the leader has got them is shown as well: two would be what must never be.
function holders(owner, nodes) {
  const having = nodes.filter((node) => node.fresh && seatOf(node, owner)?.state === "active");
  const leader = having.find((node) => node.name === owner.leader);
  if (!leader) return [];
  const since = owner.moves.find((move) => move.to === leader.name)?.ago_ms ?? Infinity;
  return having.filter((node) => node === leader || node.told < since).map((node) => node.name);
}

function headline(owner, nodes) {
  const what = owner.addresses.map(bare).join(" and "), verb = owner.addresses.length > 1 ? "are" : "is";
  const having = holders(owner, nodes);
  if (having.length > 0) return `${what} ${verb} on ${having.join(" and ")}`;
  // Nodes of an election by Lease that serve no metrics tell nobody of themselves: the Lease has a name.
  if (owner.election === "kubernetes" && owner.leader) return `${what}: ${owner.leader} holds the Lease`;
  return `${what}: nobody is known to have ${owner.addresses.length > 1 ? "them" : "it"}`;
}

function showAddresses(status, nodes) {
  const articles = status.owners.map((owner) => {
    const article = make("article", "address", make("h3", "", owner.addresses.join(", ")));
    article.append(make("p", "", owner.election === "kubernetes" ? `by Lease ${owner.lease?.name ?? ""}` : owner.election === "none" ? "no election" : "by the votes of its peers"));
    article.dataset.at = holders(owner, nodes).join();
    return article;
  });
  $("addresses").replaceChildren(...articles);
}

function showNodes(status, nodes) {
  const articles = nodes.map((node) => {
    const article = make("article", "", make("h3", "", node.name));
    article.dataset.node = node.name;
    const peer = status.owners.flatMap((owner) => owner.peers).find((peer) => peer.id === node.name);
    if (!node.status) {
      article.classList.add("silent");
      article.append(make("p", "bad", peer?.trouble ?? (node.told === null || node.told === undefined ? "never heard" : "says nothing of itself that can be read")));
      return article;
    }
    const seats = node.status.owners, has = status.owners.filter((owner) => holders(owner, nodes).includes(node.name));
    if (!node.fresh) {
      article.classList.add("silent");
      article.append(make("p", "bad", `silent for ${ago(node.told)}`), make("p", "", `was ${seats[0]?.state ?? "balancing"}`));
      return article;
    }
    if (has.length) article.classList.add("owner");
    article.append(make("p", has.length ? "accent" : "good", has.length ? "owner" : seats[0]?.state ?? "balances"));
    const warn = (is, text) => is && article.append(make("p", "warn", text));
    warn(node.status.stopping, "stopping");
    warn(seats.some((seat) => !seat.link_up), "its link is down");
    warn(node.status.main_loop?.late, "woken too late");
    warn(seats.some((seat) => !seat.fenced), "not fenced by the kernel");
    warn(peer?.eligible === false && peer?.witness !== true, "unfit to lead");
    warn(peer?.resting, "stepped down, rests");
    if (peer?.trouble) article.append(make("p", "bad", peer.trouble));
    const open = node.status.load_balancers.reduce((sum, balancer) => sum + balancer.connections, 0);
    article.append(make("p", "", `${open} connections`), make("p", "", `vipd ${node.status.version}, up ${ago(node.status.up_ms)}`));
    return article;
  });
  $("nodes").replaceChildren(...articles);
}

function spark(key, value) {
  const samples = history.get(key) ?? [];
  samples.push(value);
  if (samples.length > SAMPLES) samples.shift();
  history.set(key, samples);
  const most = Math.max(1, ...samples), svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${SAMPLES} 24`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "spark");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `open connections, ${value} now, ${most} at most in the last two minutes`);
  const line = document.createElementNS(svg.namespaceURI, "polyline");
  const first = SAMPLES - samples.length;
  line.setAttribute("points", samples.map((sample, at) => `${first + at},${(23 - (sample / most) * 22).toFixed(1)}`).join(" "));
  svg.append(line);
  return svg;
}

// A backend as all nodes see it: in the state that most matters, with who sees another one.
function backendOf(name, address, nodes) {
  const seen = nodes.filter((node) => node.fresh && node.status).flatMap((node) => {
    const balancer = node.status.load_balancers.find((balancer) => balancer.name === name);
    const backend = balancer?.backends.find((backend) => backend.address === address);
    return backend ? [{ node: node.name, backend }] : [];
  });
  const open = seen.reduce((sum, { backend }) => sum + backend.connections, 0);
  return { seen, open };
}

function showBalancers(status, nodes) {
  const sections = status.load_balancers.map((balancer) => {
    const where = balancer.leaving ? "no more in the configuration" : balancer.listen.join(", ");
    const section = make("section", "", make("h2", "", make("span", "", `${balancer.name} · ${where}`)));
    const articles = balancer.backends.map((own) => {
      const { seen, open } = backendOf(balancer.name, own.address, nodes);
      const article = make("article", "", make("h3", "", own.name === own.address ? own.address : `${own.name} (${own.address})`));
      article.dataset.health = own.health;
      const colour = { ready: "good", draining: "warn", dead: "bad" }[own.health] ?? "";
      article.append(make("p", colour, own.health + (own.drained ? ", drained by command" : "") + (own.cordoned ? ", its node is cordoned" : "")));
      const others = seen.filter(({ backend }) => backend.health !== own.health);
      if (others.length) article.append(make("p", "warn", others.map(({ node, backend }) => `${backend.health} for ${node}`).join(", ")));
      if (own.health !== "ready" && own.last_error) article.append(make("p", "", own.last_error));
      article.append(make("p", "", `${open} open on ${seen.length} node${seen.length === 1 ? "" : "s"}`), spark(`${balancer.name} ${own.address}`, open));
      return article;
    });
    section.append(make("div", "backends", ...articles));
    return section;
  });
  $("balancers").replaceChildren(...sections);
}

const REASONS = {
  first: (move) => `${move.to} was the first to have it`,
  stepped_down: (move) => `to ${move.to}: ${move.from} was told to step down`,
  stopped: (move) => `to ${move.to}: ${move.from} was stopped`,
  unfit: (move) => `to ${move.to}: ${move.from} was no longer fit to lead`,
  gave_way: (move) => `to ${move.to}: ${move.from} gave way to it`,
  released: (move) => `to ${move.to}: ${move.from} let go of the Lease`,
  silent: (move) => `to ${move.to}: ${move.from} fell silent`,
  restarted: (move) => `to ${move.to}: ${move.from} was started anew`,
  lapsed: (move) => `${move.to} lost its lease, and got it back`,
};

function showMoves(status) {
  const several = status.owners.length > 1;
  const moves = status.owners.flatMap((owner) => owner.moves.map((move) => ({ ...move, what: several ? `${bare(owner.addresses[0])} ` : "" })));
  moves.sort((a, b) => a.ago_ms - b.ago_ms);
  const items = moves.slice(0, 20).map((move) => {
    const told = (REASONS[move.reason] ?? (() => `from ${move.from ?? "nobody"} to ${move.to}`))(move);
    const took = move.took_ms === null ? "" : `, ${ago(move.took_ms)} without`;
    return make("li", ["silent", "lapsed", "unfit", "restarted"].includes(move.reason) ? "bad" : "", make("time", "", `${ago(move.ago_ms)} ago`), ` ${move.what}${told}${took}`);
  });
  $("timeline").replaceChildren(...(items.length ? items : [make("li", "", "none yet")]));
}

// Lines from each address to who has it, and from there to the backends.
function drawLines() {
  const svg = $("lines"), all = $("picture").getBoundingClientRect();
  const end = (element, side) => {
    const box = element.getBoundingClientRect();
    return [box.left + box.width / 2 - all.left, (side === "top" ? box.top : box.bottom) - all.top];
  };
  const paths = [];
  const line = (from, to, kind) => {
    const [x, y] = end(from, "bottom"), [u, v] = end(to, "top"), middle = (y + v) / 2;
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("d", `M${x} ${y}C${x} ${middle} ${u} ${middle} ${u} ${v}`);
    path.setAttribute("class", kind);
    paths.push(path);
  };
  for (const address of document.querySelectorAll("article.address")) {
    for (const node of document.querySelectorAll("article[data-node]")) {
      if (address.dataset.at.split(",").includes(node.dataset.node)) line(address, node, "owns");
    }
  }
  for (const node of document.querySelectorAll("article.owner")) {
    for (const backend of document.querySelectorAll("#balancers > section:first-child article")) line(node, backend, backend.dataset.health);
  }
  svg.replaceChildren(...paths);
}

function show(status) {
  const nodes = nodesOf(status);
  const lines = status.owners.map((owner) => headline(owner, nodes));
  const heading = lines.length ? lines.join("; ") : `${status.node} balances; there is no virtual address`;
  if ($("owners").textContent !== heading) $("owners").textContent = heading;
  document.title = heading;
  $("source").textContent = `as ${status.node} tells it`;
  showAddresses(status, nodes);
  showNodes(status, nodes);
  showBalancers(status, nodes);
  showMoves(status);
  drawLines();
}

function mark() {
  const silence = answered === null ? null : performance.now() - answered;
  const stale = silence === null || silence > LATELY + INTERVAL;
  $("picture").classList.toggle("stale", stale);
  $("stale").hidden = !stale;
  if (!stale) return;
  $("stale").textContent = silence === null ? `no answer from ${location.host} yet` : `no answer from ${location.host} for ${ago(silence)}: what is shown is as old`;
  if (silence !== null) document.title = `? ${$("owners").textContent}`;
}

async function ask() {
  try {
    const response = await fetch("/status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!response.ok) throw new Error(response.statusText);
    const status = await response.json();
    answered = performance.now();
    show(status);
  } catch {
    // Shown as silence.
  }
  mark();
  setTimeout(ask, INTERVAL);
}

addEventListener("resize", drawLines);
ask();
