// One sentence: its session on the server, the words that go there and the messages that come back.

const GONE = "The server cannot be reached. Is `psfuture serve` still running?";
const AGAIN_MS = 500;

export async function ask(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body ? { "content-type": "application/json" } : {},
      body: body && JSON.stringify(body),
    });
  } catch {
    throw new Error(GONE);
  }
  const answer = response.status === 204 ? {} : await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(answer.error ?? `The server answered ${response.status}.`);
    error.status = response.status;
    throw error;
  }
  return answer;
}

export class Sentence {
  /** `settings` is {threshold, k}; `tell` gets each message, `fail` an error in words. */
  constructor(settings, tell, fail) {
    this.words = [];
    this.settings = { ...settings };
    this.messages = [];
    this.finished = false; // the writer ended it
    this.over = false; // nothing will come any more
    this.tell = tell;
    this.fail = fail;
    this.lanesDone = 0;
    this.sent = 0;
    this.begin();
  }

  push(word) {
    this.words.push(word);
    this.send();
  }

  finish() {
    this.finished = true;
    this.send();
  }

  /** New settings; only the newest is sent where several come at once. */
  async change(settings) {
    Object.assign(this.settings, settings);
    this.unsent = { ...this.unsent, ...settings };
    if (!this.session || this.finished || this.over || this.changing) return;
    this.changing = true;
    try {
      while (this.unsent && !this.finished && !this.over) {
        const newest = this.unsent;
        this.unsent = null;
        await ask("PATCH", this.path, newest);
      }
    } catch (error) {
      if (!this.finished) this.stop(error.message);
    } finally {
      this.changing = false;
    }
  }

  get path() {
    return `api/sessions/${this.session}`;
  }

  async begin() {
    try {
      const { session } = await ask("POST", "api/sessions", this.settings);
      this.session = session;
    } catch (error) {
      this.stop(error.message);
      return;
    }
    this.events = new EventSource(`${this.path}/events`);
    this.events.onopen = () => {
      this.listening = true;
      if (this.unsent) this.change({});
      this.send();
    };
    this.events.onmessage = ({ data }) => this.hear(JSON.parse(data));
    this.events.onerror = () => this.stop("The connection was lost. Type on to begin a new sentence.");
  }

  hear(message) {
    if (message.closed) {
      this.stop(`The sentence was closed: ${message.closed}.`);
      return;
    }
    if (message.error) {
      this.stop(`${message.lane}: ${message.error}`);
      return;
    }
    this.messages.push(message);
    if (message.done && ++this.lanesDone === 2) this.stop();
    this.tell(message);
  }

  /** Words in their order, one a request; where they come too fast, later. */
  async send() {
    if (!this.listening || this.sending || this.over) return;
    this.sending = true;
    try {
      while (this.sent < this.words.length && !this.over) {
        try {
          await ask("POST", `${this.path}/words`, { text: this.words[this.sent] });
          this.sent += 1;
        } catch (error) {
          if (error.status !== 429) throw error;
          await new Promise((resume) => setTimeout(resume, AGAIN_MS));
        }
      }
      if (this.finished && !this.ended && !this.over) {
        this.ended = true;
        await ask("POST", `${this.path}/finish`);
      }
    } catch (error) {
      this.stop(error.message);
    } finally {
      this.sending = false;
    }
    if (this.sent < this.words.length || (this.finished && !this.ended)) this.send();
  }

  stop(reason) {
    if (this.over) return;
    this.over = true;
    this.events?.close();
    if (reason) this.fail(reason);
  }
}
