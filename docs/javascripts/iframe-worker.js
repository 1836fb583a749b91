// The search of the site where it is opened as a file. Browsers start no Worker from file:// pages;
// this one runs the same script in a hidden frame. The theme's `offline` plugin would otherwise fetch
// such a script from the network at every visit, and hide the search where there is none.
//
// Not here: the search itself (the theme's worker), whose index is search/search_index.js.
"use strict";

if (location.protocol === "file:") {
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      document.body.append(frame);
      this.inside = frame.contentWindow;
      // What the script sends goes to the page, and what it needs further is loaded as scripts.
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inside.importScripts = (...urls) =>
        urls.reduce((before, one) => before.then(() => this.load(one)), Promise.resolve());
      this.ready = this.load(new URL(url, document.baseURI).href);
      this.ready.catch((error) => this.dispatchEvent(new ErrorEvent("error", { message: error.message })));
    }

    load(url) {
      return new Promise((done, failed) => {
        const script = this.inside.document.createElement("script");
        script.src = url;
        script.onload = done;
        script.onerror = () => failed(new Error(`cannot load ${url}`));
        this.inside.document.body.append(script);
      });
    }

    postMessage(data) {
      this.ready.then(() => {
        const { MessageEvent } = this.inside;
        this.inside.dispatchEvent(new MessageEvent("message", { data }));
      });
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  }
  window.Worker = FrameWorker;
  // By this name the theme's worker finds out that it runs in a frame.
  window.IFrameWorker = FrameWorker;
}
