// Runs when the page is loaded, before the server is asked for the form: which browser this is, and what this window
// showed before it was reloaded (assets/page.js keeps that).
() => {
  const kept = (store, name) => { try { return window[store].getItem(name) ?? ''; } catch { return ''; } };
  let browser = kept('localStorage', 'sft-studio-browser');
  if (!/^[0-9a-f]{32}$/.test(browser)) {
    browser = [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, '0')).join('');
    try { localStorage.setItem('sft-studio-browser', browser); } catch { /* private mode: this window alone */ }
  }
  const shown = {};
  for (const part of ['tab', 'compare', 'preset']) {
    try { shown[part] = JSON.parse(kept('sessionStorage', `sft-studio-${part}`) || 'null'); } catch { shown[part] = null; }
  }
  return [browser, JSON.stringify(shown)];
}
