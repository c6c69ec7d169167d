def test_what_the_worker_chose_is_told_as_text():
    from studio.runs import RunSnapshot
    from studio.ui.runs.texts import chosen

    view = RunSnapshot()
    assert chosen(view) == ""
    told = [{"what": "dtype", "chosen": "bfloat16", "by": "studio", "why": "<b>fast</b>"}]
    view.started = {"choices": told}
    assert "bfloat16" in chosen(view) and "&lt;b&gt;fast" in chosen(view)
    view.started = {}  # a run of an earlier version
    assert chosen(view) == ""


def test_the_queue_is_not_looked_at_a_thousand_times_a_second():
    import gradio as gr

    from studio.ui.app import quieten

    with gr.Blocks() as page:
        gr.Textbox()
    page.queue()
    quieten(page)
    assert 0.005 <= page._queue.sleep_when_free <= 0.05
    assert page._queue.progress_update_sleep_when_free >= 0.1
